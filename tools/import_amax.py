#!/usr/bin/env python3
"""Turns what NVIDIA ModelOpt calibrated of a DeepSeek-V4 into an amax file (docs/formats/amax.md) for `quantize --amax`.

    tools/import_amax.py DUMP ... -o amax.safetensors

DUMP: a folder of amax_dict_rank*-mp*.pt (what ModelOpt's deepseek_v4/ptq.py writes), or files (.pt, .safetensors) of a state
that holds quantizers' buffers (`*.input_quantizer._amax`). Official and Hub names of modules; several dumps are merged by
the larger value. Experts that a dump lacks count as experts without tokens. Weights' quantizers are not needed and left out.

Values that no calibration gives are refused, all of them by name, and nothing is written (exit code 1): NaN, infinite,
zero, negative, outside --least and --most, or more than --ratio times away from the median of their layer and kind.
--drop-refused imports the others; experts refused then count as without tokens.

Standard library only for .safetensors; .pt needs torch (2.11.0 was used).
"""
import argparse
import math
import re
import statistics
import struct
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from safetensors_files import read_file, write_amax

# What follows "layers.N." in a Hub name, and in the official one (transformers 5.17; 5.14 has no `scorer.`).
OFFICIAL = {
    "self_attn.q_a_proj": "attn.wq_a",
    "self_attn.q_b_proj": "attn.wq_b",
    "self_attn.kv_proj": "attn.wkv",
    "self_attn.o_a_proj": "attn.wo_a",
    "self_attn.o_b_proj": "attn.wo_b",
    "self_attn.compressor.kv_proj": "attn.compressor.wkv",
    "self_attn.compressor.gate_proj": "attn.compressor.wgate",
    "self_attn.compressor.indexer.q_b_proj": "attn.indexer.wq_b",
    "self_attn.compressor.indexer.scorer.weights_proj": "attn.indexer.weights_proj",
    "self_attn.compressor.indexer.weights_proj": "attn.indexer.weights_proj",
    "self_attn.compressor.indexer.kv_proj": "attn.indexer.compressor.wkv",
    "self_attn.compressor.indexer.gate_proj": "attn.indexer.compressor.wgate",
    "mlp.gate": "ffn.gate",
    "mlp.shared_experts.gate_proj": "ffn.shared_experts.w1",
    "mlp.shared_experts.up_proj": "ffn.shared_experts.w3",
    "mlp.shared_experts.down_proj": "ffn.shared_experts.w2",
}
LINEARS = set(OFFICIAL.values())
PROJECTION = {"w1": "w13", "w3": "w13", "w2": "w2", "gate_proj": "w13", "up_proj": "w13", "down_proj": "w2",
              "gate_up_proj": "w13"}
# "layers.3.ffn.experts.17.w1_input_quantizer._amax", "model.layers.3.mlp.experts.17.up_proj.input_quantizer._amax"
BUFFER = re.compile(r"(?:model\.)?layers\.(\d+)\.(.+?)[._](input|weight)_quantizers?(?:\.(\d+))?\._amax")
EXPERT = re.compile(r"(ffn|mlp)\.experts\.(\d+)\.(w[123]|gate_proj|up_proj|down_proj)")
FUSED = re.compile(r"mlp\.experts\.(gate_up_proj|down_proj)")
MOST_EXPERTS = 65536
SHOWN = 20


class Refused(Exception):
    pass


def load_safetensors(path):
    """Name -> floats of its quantizers' buffers."""
    width = {"F32": (4, "f"), "F64": (8, "d"), "F16": (2, "e")}
    values = {}
    for name, tensor in read_file(path).items():
        if not name.endswith("_amax"):
            continue
        data = tensor.read()
        if tensor.dtype == "BF16":  # the upper half of an F32
            data, dtype = b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2)), "F32"
        elif tensor.dtype in width:
            dtype = tensor.dtype
        else:
            raise Refused(f"{path}: {name} has dtype {tensor.dtype}")
        size, code = width[dtype]
        values[name] = list(struct.unpack(f"<{len(data) // size}{code}", data))
    return values


def load_torch(path):
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch and pickle raise on a damaged file
        raise Refused(f"{path}: torch cannot load it: {str(error).splitlines()[0]}")
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise Refused(f"{path}: no dictionary of tensors")
    return {name: value.float().flatten().tolist() for name, value in state.items()
            if str(name).endswith("_amax") and torch.is_tensor(value)}


def files_of(path):
    """The dumps that a path stands for; a folder's ranks must be whole."""
    path = Path(path)
    if not path.is_dir():
        return [path]
    found = defaultdict(dict)
    for file in path.glob("amax_dict_rank*-mp*.pt"):
        rank, ranks = map(int, re.fullmatch(r"amax_dict_rank(\d+)-mp(\d+)\.pt", file.name).groups())
        found[ranks][rank] = file
    if len(found) != 1:
        raise Refused(f"{path}: {'dumps of several sizes: mp ' + str(sorted(found)) if found else 'no amax_dict_rank*-mp*.pt'}")
    ((ranks, files),) = found.items()
    missing = sorted(set(range(ranks)) - files.keys())
    if missing:
        raise Refused(f"{path}: of {ranks} ranks {missing} are missing")
    return [files[rank] for rank in sorted(files)]


class Value(NamedTuple):
    place: tuple  # (layer, "attn.wq_a" or "w13" or "w2", expert or None)
    name: str     # that it came under
    value: float


class Import:
    """The input quantizers' values, and what else the names say."""

    def __init__(self):
        self.values = []
        self.fused = []    # one value for all experts: their place lacks the expert
        self.experts = 0   # the highest index seen, + 1; weights' quantizers count
        self.is_hub = False
        self.left_out = defaultdict(int)

    def add(self, name, numbers, path):
        match = BUFFER.fullmatch(name)
        if not match:
            # mtp.0.x_quantizer -> mtp, lm_head.x_quantizer -> lm_head
            self.left_out[name.removeprefix("model.").split(".")[0]] += 1
            return
        layer, module, kind, index = int(match[1]), match[2], match[3], match[4]
        expert, fused = EXPERT.fullmatch(module), FUSED.fullmatch(module)
        last = int(expert[2]) if expert else int(index) if index is not None and fused else -1
        if last >= MOST_EXPERTS:
            raise Refused(f"{path}: {name}: no index of an expert")
        self.experts = max(self.experts, last + 1)
        self.is_hub |= bool(re.match(r"mlp\.|self_attn\.", module))
        if kind == "weight":
            self.left_out["weight quantizers"] += 1
            return
        if len(numbers) != 1:
            raise Refused(f"{path}: {name}: one value for the tensor expected, {len(numbers)} found")
        if expert:
            self.values.append(Value((layer, PROJECTION[expert[3]], int(expert[2])), name, numbers[0]))
        elif fused:
            self.fused.append(Value((layer, PROJECTION[fused[1]], None), name, numbers[0]))
        elif OFFICIAL.get(module, module) in LINEARS:
            self.values.append(Value((layer, OFFICIAL.get(module, module), None), name, numbers[0]))
        else:
            raise Refused(f"{path}: {name}: no linear of a DeepSeek-V4 layer")

    def spread_fused(self, experts):
        """One value for all experts of a layer stands for each of them."""
        if self.fused and not experts:
            raise Refused("how many experts? No name says; give --experts N")
        for (layer, kind, _), name, value in self.fused:
            self.values += [Value((layer, kind, expert), name, value) for expert in range(experts)]


def fault(value, least, most):
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinite"
    if value == 0:
        return "zero"
    if value < 0:
        return "negative"
    return None if least <= value <= most else f"outside {least:g} ... {most:g}"


def refusals(values, least, most, ratio):
    """Value -> reason, of what calibration cannot have given."""
    reasons = {each: fault(each.value, least, most) for each in values}
    kinds = defaultdict(list)
    for each, reason in reasons.items():
        if not reason and each.place[2] is not None:
            kinds[each.place[:2]].append(each)
    for entries in kinds.values():
        median = statistics.median(each.value for each in entries)
        for each in entries:
            times = max(each.value / median, median / each.value)
            if times > ratio:
                reasons[each] = f"{times:.3g} times away from its layer's median {median:.4g}"
    return {each: reason for each, reason in reasons.items() if reason}


def merge(values):
    """Place -> the largest of its values."""
    merged = {}
    for place, _, value in values:
        merged[place] = max(value, merged.get(place, 0.0))
    return merged


def tensors_of(values, experts, w2):
    """Name -> (shape, floats) of the amax file."""
    tensors = {}
    for (layer, kind, expert), value in sorted(values.items(), key=lambda entry: str(entry[0])):
        if expert is None:
            tensors[f"layers.{layer}.{kind}.input_amax"] = ([], [value])
            continue
        suffix = "_weighted" if kind == "w2" and w2 == "weighted" else ""
        name = f"layers.{layer}.ffn.experts.{kind}.input_amax{suffix}"
        tensors.setdefault(name, ([experts], [0.0] * experts))[1][expert] = value
    return tensors


def report(imported, tensors, files, w2, output):
    print(f"{output}: {len(tensors)} tensors from {len(files)} files; input of w2 taken as {w2}")
    for name, (shape, values) in tensors.items():
        missing = [i for i, value in enumerate(values) if value == 0]
        if missing:
            print(f"  {name}: {len(missing)} of {shape[0]} experts without a value: {', '.join(map(str, missing[:SHOWN]))}"
                  f"{', ...' if len(missing) > SHOWN else ''}")
    for what, count in sorted(imported.left_out.items()):
        print(f"  left out: {count} of {what}")


def run(options):
    imported, files = Import(), [file for path in options.dump for file in files_of(path)]
    for file in files:
        for name, numbers in (load_safetensors if file.suffix == ".safetensors" else load_torch)(file).items():
            imported.add(name, numbers, file)
    if options.experts and imported.experts > options.experts:
        raise Refused(f"a name has expert {imported.experts - 1}, --experts says {options.experts}")
    experts = options.experts or imported.experts
    imported.spread_fused(experts)
    bad = refusals(imported.values, options.least, options.most, options.ratio)
    for each, reason in list(bad.items())[: None if options.all else SHOWN]:
        print(f"refused: {each.name} = {each.value:g}: {reason}", file=sys.stderr)
    if bad:
        print(f"{len(bad)} of {len(imported.values)} values are refused", file=sys.stderr)
        if not options.drop_refused:
            raise Refused("calibrate again; --drop-refused imports the others, --all lists every value")
    values = merge(each for each in imported.values if each not in bad)
    if not values:
        raise Refused("no input quantizer has a value")
    w2 = options.w2 or ("unweighted" if imported.is_hub else "weighted")
    tensors = tensors_of(values, experts, w2)
    layers = {place[0] for place in values}
    write_amax(options.output, tensors, {"model_type": "deepseek_v4", "layers": str(max(layers) + 1),
                                         "producer": "tools/import_amax.py"})
    report(imported, tensors, files, w2, options.output)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dump", nargs="+", metavar="DUMP")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--w2", choices=["weighted", "unweighted"],
                        help="whether w2's input was measured with the routing weight; default: with official names it was "
                             "(ModelOpt's deepseek_v4/ptq.py), with Hub names not (transformers multiplies after w2)")
    parser.add_argument("--experts", type=int, help="routed experts of a layer; default: from the names")
    parser.add_argument("--least", type=float, default=1e-5, help="default 1e-5")
    parser.add_argument("--most", type=float, default=65504, help="default 65504, the largest FP16")
    parser.add_argument("--ratio", type=float, default=1000, help="default 1000")
    parser.add_argument("--drop-refused", action="store_true")
    parser.add_argument("--all", action="store_true", help=f"list every refused value, not {SHOWN}")
    try:
        run(parser.parse_args())
    except (Refused, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
