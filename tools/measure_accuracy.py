#!/usr/bin/env python3
"""Measures what recipes and weight methods cost in quality: perplexity, KL divergence and bits per weight.

    python3 -m venv venv && venv/bin/pip install torch==2.11.0 transformers==5.17.0 safetensors==0.8.0 numpy==2.4.6
    venv/bin/python tools/measure_accuracy.py build/release/nibblecast MODEL [--rows 24] [--only PATTERN]

MODEL is a small DeepSeek-V4 release with calib.jsonl, and eval.input_ids in oracle.safetensors. Each variant is quantized,
its weights are dequantized here (not by nibblecast) and run in float32 by transformers on the CPU; activations are not
quantized. Variants whose weights are equal to the bit, such as those of w4a16_nvfp4 and nvfp4, are run once. Prints the rows
of the table in docs/accuracy.md, in its order.
"""
import argparse
import hashlib
import json
import math
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

E2M1 = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6])
COMPRESSOR = r"compressor\.(?:wkv|wgate)"
LINEAR = re.compile(
    rf"layers\.\d+\.(?:attn\.(?:wq_a|wq_b|wkv|wo_a|wo_b|{COMPRESSOR}|indexer\.(?:wq_b|weights_proj|{COMPRESSOR}))"
    r"|ffn\.(?:shared_experts|experts\.\d+)\.w[123])")
SUFFIXES = ("weight", "scale", "weight_scale", "weight_scale_2")

EXPERTS_CAST = """
rules:
  - modules: "layers.*"
    format: nvfp4
    weight_method: METHOD
  - modules: ["*.ffn.gate", "*.attn.wo_a"]
    format: keep
  - modules: "*.ffn.experts.*"
    format: nvfp4
"""


def read_tensors(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    tensors = {}
    for shard in sorted(set(index["weight_map"].values())):
        tensors |= load_file(folder / shard)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("mtp.")}


def unpack(packed):
    codes = packed.view(torch.uint8)
    return E2M1[torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2).long()]


def dequantize(module, tensors):
    """float32 values of a linear in any format that a recipe writes or a release has."""
    get = lambda suffix: tensors.get(f"{module}.{suffix}")
    weight, scale = get("weight"), get("scale")
    if weight.dtype == torch.uint8:
        factor = get("weight_scale").float() * get("weight_scale_2").float()
        return unpack(weight) * factor.repeat_interleave(16, dim=1)
    if weight.dtype == torch.int8:
        return unpack(weight) * scale.float().repeat_interleave(32, dim=1)
    if weight.dtype == torch.float8_e4m3fn and scale is not None:
        tiles = scale.float().repeat_interleave(128, dim=0).repeat_interleave(128, dim=1)
        return weight.float() * tiles[:weight.shape[0], :weight.shape[1]]
    if weight.dtype == torch.float8_e4m3fn:
        return weight.float() * get("weight_scale")
    return weight.float()


def dequantized(tensors):
    """All tensors by official name, linears in float32, without what only quantized weights have."""
    modules = {name.removesuffix(".weight") for name in tensors if name.endswith(".weight")}
    extras = {f"{module}.{suffix}" for module in modules for suffix in (*SUFFIXES[1:], "input_scale")}
    values = {name: tensor for name, tensor in tensors.items() if name not in extras}
    return values | {f"{module}.weight": dequantize(module, tensors) for module in modules}


def bits_per_weight(tensors, values):
    """Of all linears of the layers, scales included."""
    modules = [name.removesuffix(".weight") for name in values if LINEAR.fullmatch(name.removesuffix(".weight"))]
    stored = [tensors[f"{module}.{suffix}"] for module in modules for suffix in SUFFIXES
              if f"{module}.{suffix}" in tensors]
    return 8 * sum(t.nbytes for t in stored) / sum(values[f"{module}.weight"].numel() for module in modules)


def load_model(config, values):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        plain = {key: value for key, value in config.items() if key not in ("quantization_config", "torch_dtype")}
        (folder / "config.json").write_text(json.dumps(plain))
        save_file({name: tensor.contiguous() for name, tensor in values.items()}, folder / "model.safetensors",
                  metadata={"format": "pt"})
        model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True,
                                                              attn_implementation="eager")
        assert not loading["missing_keys"] and not loading["mismatched_keys"], loading
        return model.eval()


def log_probabilities(model, rows):
    with torch.no_grad():
        return [torch.log_softmax(model(row[None], use_cache=False).logits[0].float(), dim=-1) for row in rows]


def measure(found, reference, rows):
    nll = kl = same = 0.0
    for logp, ref, row in zip(found, reference, rows):
        nll -= logp[:-1].gather(1, row[1:, None]).double().sum().item()
        kl += (ref.exp() * (ref - logp)).double().sum().item()
        same += (logp.argmax(-1) == ref.argmax(-1)).sum().item()
    tokens = sum(len(row) for row in rows)
    return math.exp(nll / (tokens - len(rows))), kl / tokens, same / tokens


def variants(work):
    """Label, recipe, method."""
    for recipe in ("nvfp4_experts_only", "nvfp4_mlp_only", "nvfp4_omlp_only", "nvfp4", "w4a16_nvfp4"):
        for method in ("cast", "max", "mse", "four_over_six"):
            yield recipe, recipe, method
    for method in ("mse", "four_over_six"):
        path = work / f"cast_and_{method}.yaml"
        path.write_text(EXPERTS_CAST.replace("METHOD", method))
        yield f"nvfp4, experts cast, the rest by {method}", str(path), None


def digest(values):
    """Of all values, zeros without their sign: it changes no result."""
    hashed = hashlib.blake2b()
    for name in sorted(values):
        hashed.update(name.encode())
        tensor = values[name].contiguous()
        tensor = tensor.float() + 0.0 if tensor.is_floating_point() else tensor
        hashed.update(tensor.numpy().tobytes())
    return hashed.digest()


def quantize(nibblecast, model, out, amax, recipe, method):
    command = [nibblecast, "quantize", model, out, "--recipe", recipe, "--engine", "none", "--amax", amax, "--quiet"]
    command += ["--weight-method", method] if method else []
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main():
    logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nibblecast")
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--only", default="", help="variants whose name holds this regular expression")
    arguments = parser.parse_args()
    config = json.loads((arguments.model / "config.json").read_text())
    rows = load_file(arguments.model / "oracle.safetensors")["eval.input_ids"][:arguments.rows].long()
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        source = read_tensors(arguments.model)
        values = dequantized(source)
        reference = log_probabilities(load_model(config, values), rows)
        itself = measure(reference, reference, rows)
        perplexity, known = itself[0], {digest(values): itself}
        print(f"{len(rows)} rows of {rows.shape[1]} tokens")
        print(f"| the release | | {bits_per_weight(source, values):.2f} | {perplexity:.3f} | | |", flush=True)
        amax = work / "amax.safetensors"  # of activations: no weight depends on it
        subprocess.run([arguments.nibblecast, "calibrate", arguments.model, "--calib", arguments.model / "calib.jsonl",
                        "--calib-rows", "packed", "--calib-size", "4", "-o", amax, "--quiet"], check=True,
                       stdout=subprocess.DEVNULL)
        for number, (label, recipe, method) in enumerate(variants(work)):
            if not re.search(arguments.only, label):
                continue
            began = time.monotonic()
            quantize(arguments.nibblecast, arguments.model, work / str(number), amax, recipe, method)
            tensors = read_tensors(work / str(number))
            made = dequantized(tensors)
            key = digest(made)
            if key not in known:
                known[key] = measure(log_probabilities(load_model(config, made), rows), reference, rows)
            found = known[key]
            shutil.rmtree(work / str(number))
            print(f"| {label} | {method or ''} | {bits_per_weight(tensors, made):.2f} | {found[0]:.3f} | "
                  f"{found[1]:.4f} | {100 * found[2]:.1f} % |   {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
