"""Holds what transformers with compressed-tensors makes of our compressed-tensors outputs against `nibblecast dequantize`.

usage: check_compressed_tensors.py NIBBLECAST MODELS [FAMILY...] [--work DIR]

Needs compressed-tensors 0.19.0, transformers 5.23.0 and torch 2.14.0 (pip install compressed-tensors==0.19.0 transformers==5.23.0 torch==2.14.0
accelerate, in an environment of its own). MODELS holds a folder a family: a checkpoint of random weights, and calib.jsonl of token ids. Of each and
of the recipes nvfp4 and w4a16_nvfp4: quantize --format compressed-tensors, verify, dequantize to BF16. Then

- compressed-tensors' own decompressor must give each quantized weight as ours: equal but for one step of BF16, where the last bit of
  1 / (1 / scale) decides a rounding; in float32 within 2^-22 of codes times scales in double;
- from_pretrained must find every key that it looks for and no other, and make the same of each weight. Left out: scales of inputs, which it
  does not use, and routed experts, which transformers fuses: its loader leaves their weight_global_scale out (integrations/compressed_tensors.py);
- no quantized module is in `ignore`.

Exit code 1 where one is not so.
"""
import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from compressed_tensors.compressors import NVFP4PackedCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors import safe_open

from nibblecast_program import NotSupported, run

RECIPES = {"nvfp4": ["--input-scale", "1.0"], "w4a16_nvfp4": []}
FLOAT_TOLERANCE = 2.0 ** -22  # of a product of code, block scale and twice rounded second-level scale
E2M1 = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6], dtype=torch.float64)
FUSED = (".experts.gate_up_proj", ".experts.down_proj")


def tensors_of(folder):
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                yield name, file.get_tensor(name)


def load(folder, **options):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, output_loading_info=True, **options)
    return dict(model.state_dict()), {key: value for key, value in info.items() if value}


def steps_between(a, b):
    """Of BF16: how many representable values lie between, at most."""
    def ordered(tensor):
        bits = tensor.contiguous().view(torch.int16).to(torch.int32)
        return torch.where(bits < 0, -(bits & 0x7FFF), bits)
    return (ordered(a) - ordered(b)).abs()


def check_loaded(compressed, wide):
    """transformers' decompressed parameters against ours."""
    found, problems = load(compressed, quantization_config=transformers.CompressedTensorsConfig(dequantize=True))
    ours, _ = load(wide)
    unexpected = {key for key in problems.pop("unexpected_keys", ()) if not key.endswith(".input_global_scale")}
    lines = [f"from_pretrained: {key}: {value}" for key, value in problems.items()]
    if unexpected:
        lines.append(f"from_pretrained: {len(unexpected)} keys are unexpected, {min(unexpected)}")
    differing = values = 0
    for name, expected in ours.items():
        actual = found.get(name)
        if actual is None or actual.shape != expected.shape or actual.dtype != expected.dtype:
            lines.append(f"{name}: not loaded alike")
            continue
        if expected.dtype != torch.bfloat16 or name.endswith(FUSED):
            continue
        steps = steps_between(actual, expected)
        values, differing = values + steps.numel(), differing + int((steps > 0).sum())
        if int(steps.max()) > 1:
            lines.append(f"{name}: {int((steps > 1).sum())} values are more than one step of BF16 off")
    return lines, f"from_pretrained: {differing} of {values} values one step off"


def check_modules(folder, wide):
    """Each quantized weight by compressed-tensors, and the documents."""
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    parsed = QuantizationConfig.model_validate(config)
    scheme = next(iter(parsed.config_groups.values()))
    tensors = dict(tensors_of(folder))
    ours = dict(tensors_of(wide))
    lines, largest, count, differing = [], 0.0, 0, 0
    for name, packed in tensors.items():
        if not name.endswith(".weight_packed"):
            continue
        module = name.removesuffix(".weight_packed")
        scale, divisor = tensors[f"{module}.weight_scale"], tensors[f"{module}.weight_global_scale"]
        unpacked = unpack_fp4_from_uint8(packed, packed.shape[0], packed.shape[1] * 2, dtype=torch.float32)
        found = dequantize(x_q=unpacked, scale=scale.to(torch.float32), args=scheme.weights, global_scale=divisor,
                           dtype=torch.float32)
        state = {"weight_packed": packed, "weight_scale": scale, "weight_global_scale": divisor}
        steps = steps_between(NVFP4PackedCompressor.decompress(state, scheme)["weight"], ours[f"{module}.weight"])
        differing += int((steps > 0).sum())
        if int(steps.max()) > 1:
            lines.append(f"{module}: more than one step of BF16 off")
        codes = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1).long()
        blocks = scale.to(torch.float64).repeat_interleave(16, dim=1)
        expected = E2M1[codes] * blocks * (1 / divisor.to(torch.float64))
        error = ((found.double() - expected).abs() / expected.abs().clamp_min(1e-300))[expected != 0]
        largest = max(largest, float(error.max()) if error.numel() else 0.0)
        count += 1
        if module in config["ignore"]:
            lines.append(f"{module}: quantized, and in ignore")
        if not torch.equal(found[expected == 0], torch.zeros_like(found[expected == 0])):
            lines.append(f"{module}: a zero became another value")
    if count == 0 or not largest <= FLOAT_TOLERANCE:
        lines.append(f"{count} modules, largest relative error {largest:.3g}")
    return lines, f"{count} modules, {differing} values one step of BF16 off, all within {largest:.2g} in float32"


def check(program, family, recipe, work):
    compressed, wide = work / f"{family.name}-{recipe}", work / f"{family.name}-{recipe}-wide"
    for folder in (compressed, wide):
        shutil.rmtree(folder, ignore_errors=True)
    run(program, "quantize", family, compressed, "--recipe", recipe, "--format", "compressed-tensors", "--engine", "none",
        *RECIPES[recipe])
    run(program, "verify", family, compressed)
    run(program, "dequantize", compressed, wide)
    lines, figures = check_modules(compressed, wide)
    loaded, loaded_figures = check_loaded(compressed, wide)
    return lines + loaded, f"{figures}; {loaded_figures}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nibblecast")
    parser.add_argument("models", type=Path)
    parser.add_argument("families", nargs="*")
    parser.add_argument("--work", type=Path, default=Path("check-compressed-tensors"))
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    arguments.work.mkdir(parents=True, exist_ok=True)
    names = arguments.families or sorted(path.name for path in arguments.models.iterdir() if (path / "config.json").is_file())
    failed = False
    for name in names:
        for recipe in RECIPES:
            try:
                problems, figures = check(arguments.nibblecast, arguments.models / name, recipe, arguments.work)
            except NotSupported:
                print(f"{name} {recipe}: not a family of nibblecast's")
                continue
            failed |= bool(problems)
            print(f"{name} {recipe}: {'; '.join(problems) or 'as ours'}: {figures}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
