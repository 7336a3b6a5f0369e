#!/usr/bin/env python3
"""Checks an output of `nibblecast dequantize` against its source, value by value and as a model.

    tools/check_dequantize.py SRC DST [--oracle ORACLE.safetensors]

Every value of DST is computed anew from SRC's bytes: product of code and scales in double, then rounded to float32 as
the formats define it, then, where DST is BF16, to BF16 (nearest even); bits must be equal, and no tensor may be missing
or in another shard. Where DST has transformers' names (its config.json has layer_types), transformers' own conversion mapping
says what belongs where; names and shapes must then be those of its model's state, and the configuration must mean what SRC's
does. With --oracle (DST must be float32) transformers loads DST, and no key may be missing, unexpected or of another shape; its
logits, negative log-likelihoods and perplexity are held against the oracle's, largest difference at most 1e-4. Exit code 1 if
anything differs.

numpy 2.4.6; --oracle and transformers' names: torch 2.11.0 (CPU) and transformers 5.17.0.
"""
import argparse
import json
import pathlib
import re
import sys

import numpy as np

from safetensors_files import Tensor, read_file, read_folder

TOLERANCE = 1e-4
E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6])
E8M0 = np.array([2.0 ** (byte - 127) for byte in range(255)] + [np.nan])


def e4m3(byte):
    sign, exponent, mantissa = byte >> 7, byte >> 3 & 15, byte & 7
    if exponent == 15 and mantissa == 7:
        return np.nan
    value = (8 + mantissa) * 2.0 ** (exponent - 10) if exponent else mantissa * 2.0 ** -9
    return -value if sign else value


E4M3 = np.array([e4m3(byte) for byte in range(256)])


def numbers(tensor):
    """A tensor's values in double, or its bytes where it holds codes."""
    data = tensor.read()
    if tensor.dtype == "BF16":
        wide = np.frombuffer(data, "<u2").astype("<u4") << 16
        return wide.view("<f4").astype(np.float64).reshape(tensor.shape)
    if tensor.dtype == "F32":
        return np.frombuffer(data, "<f4").astype(np.float64).reshape(tensor.shape)
    codes = np.frombuffer(data, np.uint8).reshape(tensor.shape)
    return {"F8_E4M3": E4M3, "F8_E8M0": E8M0}[tensor.dtype][codes] if tensor.dtype.startswith("F8") else codes


def nibbles(codes):
    return E2M1[np.stack([codes & 15, codes >> 4], axis=-1).reshape(codes.shape[0], -1)]


def spread(scales, shape, tile):
    """A scale a tile to a scale a value."""
    return np.repeat(np.repeat(scales, tile[0], axis=0), tile[1], axis=1)[:shape[0], :shape[1]]


def expected(name, source, tile, used):
    """float32 values of a weight, and the scales that it took."""
    module, tensor = name.removesuffix(".weight"), source[name]

    def take(suffix):
        used.add(module + suffix)
        return numbers(source[module + suffix])

    if module + ".input_scale" in source and tensor.dtype in ("U8", "F8_E4M3"):
        used.add(module + ".input_scale")
    if tensor.dtype == "I8":
        values = nibbles(numbers(tensor))
        return (values * np.repeat(take(".scale"), 32, axis=1)).astype(np.float32)
    if tensor.dtype == "U8":
        scales = (take(".weight_scale") * take(".weight_scale_2")).astype(np.float32).astype(np.float64)
        return (nibbles(numbers(tensor)) * np.repeat(scales, 16, axis=1)).astype(np.float32)
    if tensor.dtype == "F8_E4M3":
        if module + ".scale" in source:
            scales = spread(take(".scale"), tensor.shape, tile)
        else:
            scales = take(".weight_scale").reshape(())
        return (numbers(tensor) * scales).astype(np.float32)
    return numbers(tensor).astype(np.float32)


def to_bf16(values):
    bits = values.view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype("<u2")


class Part(Tensor):
    """Of a stacked tensor, which lies where its first part was."""


class HubNames:
    """Where transformers' model has the tensors of a release, by its own conversion mapping."""

    def __init__(self, folder):
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        self.config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(self.config)
        self.shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        mapping = get_checkpoint_conversion_mapping(self.config.model_type)
        kinds = [[entry for entry in mapping if isinstance(entry, kind)] for kind in (WeightRenaming, WeightConverter)]
        self.rename = lambda name: rename_source_key(name, *kinds, "model", self.shapes)[0]

    def part(self, name, output):
        """The part of an output's tensor that a tensor of the release became; None where it is missing."""
        key = name if name.startswith("mtp.") else self.rename(name)
        tensor = output.get(key)
        expert = re.fullmatch(r"layers\.\d+\.ffn\.experts\.(\d+)\.w([123])\.weight", name)
        if tensor is None or not expert:
            return tensor
        number, projection = int(expert[1]), int(expert[2])
        shape, parts = list(tensor.shape[1:]), tensor.shape[0]
        if projection != 2:  # gates, then ups of each expert
            shape[0] //= 2
            number, parts = number * 2 + (projection == 3), parts * 2
        size = tensor.size // parts
        return Part(tensor.dtype, shape, tensor.path, tensor.offset + number * size, size)


def hub_problems(hub, output, output_folder):
    from transformers import AutoConfig

    found = {name: tensor.shape for name, tensor in output.items() if not name.startswith("mtp.")}
    problems = [f"{name}: {found.get(name)}, transformers' model has {hub.shapes.get(name)}"
                for name in sorted(found.keys() | hub.shapes.keys()) if found.get(name) != hub.shapes.get(name)]
    mine, theirs = (config.to_dict() for config in (AutoConfig.from_pretrained(output_folder), hub.config))
    for key in ("dtype", "quantization_config", "expert_dtype", "_name_or_path"):
        mine.pop(key, None), theirs.pop(key, None)
    theirs["rope_parameters"]["compress"].pop("type", None)  # of the release: rope_type says it
    return problems + [f"config.json: {key} means {mine.get(key)}, the source's {theirs.get(key)}"
                       for key in sorted(mine.keys() | theirs.keys()) if mine.get(key) != theirs.get(key)]


def check_values(source_folder, output_folder):
    source, output = read_folder(source_folder), read_folder(output_folder)
    config = json.loads((source_folder / "config.json").read_text())
    tile = config.get("quantization_config", {}).get("weight_block_size", [128, 128])
    used, problems, values, rounded, tensors = set(), [], 0, 0, len(output)
    if "layer_types" in json.loads((output_folder / "config.json").read_text()) and "layer_types" not in config:
        hub = HubNames(source_folder)
        problems += hub_problems(hub, output, output_folder)
        parts = {name: hub.part(name, output) for name in source}
        output = {name: tensor for name, tensor in parts.items() if tensor}
    for name, tensor in output.items():
        if name not in source:
            problems.append(f"{name}: not in the source")
            continue
        if not isinstance(tensor, Part) and tensor.path.name != source[name].path.name:
            problems.append(f"{name}: in {tensor.path.name}, not {source[name].path.name}")
        if tensor.dtype not in ("BF16", "F32"):
            same = tensor[:2] == source[name][:2] and tensor.read() == source[name].read()
            problems += [] if same else [f"{name}: not the source's bytes"]
            continue
        wide = expected(name, source, tile, used)
        if list(wide.shape) != tensor.shape:
            problems.append(f"{name}: shape {tensor.shape}, expected {list(wide.shape)}")
            continue
        found = np.frombuffer(tensor.read(), "<u2" if tensor.dtype == "BF16" else "<u4").reshape(tensor.shape)
        bits = to_bf16(wide) if tensor.dtype == "BF16" else wide.view("<u4")
        wrong = int((found != bits).sum())
        problems += [f"{name}: {wrong} of {found.size} values differ"] if wrong else []
        values += found.size
        if tensor.dtype == "BF16":
            rounded += int(((found.astype("<u4") << 16).view("<f4") != wide).sum())
    for name in source.keys() - output.keys() - used:
        problems.append(f"{name}: missing")
    for problem in problems[:20]:
        print(problem)
    print(f"{tensors} tensors, {values} values recomputed, {len(problems)} tensors wrong, {rounded} values rounded by BF16")
    return not problems


def check_logits(output_folder, oracle_path):
    import torch
    import transformers

    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        output_folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    model.eval()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}: "
          + ", ".join(f"{kind} {len(loading[kind])}" for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")))
    if loading["missing_keys"] or loading["unexpected_keys"] or loading["mismatched_keys"]:
        return False
    oracle = read_file(oracle_path)

    def tensor(name):
        kinds = {"I64": "<i8", "I32": "<i4", "F32": "<f4", "F64": "<f8"}
        return torch.from_numpy(np.frombuffer(oracle[name].read(), kinds[oracle[name].dtype]).copy()).reshape(
            oracle[name].shape)

    def forward(ids):
        with torch.inference_mode():
            logits = model(ids.long().reshape(1, -1), use_cache=False).logits[0].double()
        nll = torch.nn.functional.cross_entropy(logits[:-1], ids[1:].long(), reduction="none")
        return logits, nll

    good = True
    for case in sorted(name.removesuffix(".input_ids") for name in oracle if name.startswith("case.")
                       and name.endswith(".input_ids")):
        logits, nll = forward(tensor(case + ".input_ids"))
        last = (logits[-8:] - tensor(case + ".logits_last8").double()).abs().max().item()
        far = (nll - tensor(case + ".nll").double()[-len(nll):]).abs()
        print(f"{case}: logits of the last 8 tokens differ by at most {last:.2e}; nll by at most {far.max().item():.2e}, "
              f"{int((far > TOLERANCE).sum())} of {len(far)} tokens by more than {TOLERANCE:g}")
        good &= last <= TOLERANCE
    sums = torch.stack([forward(row)[1].sum() for row in tensor("eval.input_ids")])
    tokens = tensor("eval.input_ids")[:, 1:].numel()
    found, told = (torch.exp(total.sum() / tokens).item() for total in (sums, tensor("eval.nll_sum")))
    print(f"perplexity {found:.6f}, oracle {told:.6f}")
    return good and abs(found - told) <= TOLERANCE * told


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--oracle", type=pathlib.Path)
    arguments = parser.parse_args()
    good = check_values(arguments.source, arguments.output)
    if arguments.oracle:
        good &= check_logits(arguments.output, arguments.oracle)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
