#!/usr/bin/env python3
"""Compares the weight methods with ModelOpt's library on the attention of a DeepSeek-V4 checkpoint, byte for byte.

    cmake --preset release && cmake --build --preset release --target encode_weight
    venv/bin/python tools/check_weight_methods.py build/release/tests/formats/encode_weight ../shared/models/tiny-v4

Packages: see tools/modelopt_nvfp4.py, and safetensors==0.8.0. Weights become BF16 first, fused groups share their amax.
--speed ROWS COLS: no checkpoint; times both on one random weight instead, each on one thread, ModelOpt's with its
kernel's arithmetic in PyTorch.
"""
import argparse
import json
import os
import subprocess
import sys
import time

import torch

import modelopt_nvfp4

# What ModelOpt finds to read the same input, relative to layers.N.attn.; the rest alone.
GROUPS = (("wq_a", "wkv", "compressor.wkv", "compressor.wgate", "indexer.compressor.wkv", "indexer.compressor.wgate",
           "indexer.weights_proj"), ("wq_b", "indexer.wq_b"), ("wo_b",))


def read_bf16(tensors, name):
    weight = tensors.get(name + ".weight")
    if weight is None or name + ".scale" not in tensors:
        return weight
    scale = torch.exp2(tensors[name + ".scale"].view(torch.uint8).float() - 127)
    scale = scale.repeat_interleave(128, 0)[: weight.shape[0]].repeat_interleave(128, 1)[:, : weight.shape[1]]
    return (weight.float() * scale).bfloat16()


def encode(binary, method, weight, amax, isa, repeats=1):
    rows, cols = weight.shape
    run = subprocess.run([binary, method, str(rows), str(cols), repr(float(amax)), isa, str(repeats)],
                         input=weight.contiguous().view(torch.uint8).numpy().tobytes(), capture_output=True, check=True)
    return run.stdout, float(run.stderr)


def modelopt_bytes(method, weight, amax, fake_quant=modelopt_nvfp4.fake_quant):
    codes, scales, scale_2 = modelopt_nvfp4.quantize(method, weight, amax, fake_quant)
    return b"".join(t.contiguous().view(torch.uint8).numpy().tobytes() for t in (scale_2.reshape(1), scales, codes))


def check(binary, folder, isas):
    from safetensors.torch import load_file
    tensors = {}
    for shard in sorted({*json.load(open(os.path.join(folder, "model.safetensors.index.json")))["weight_map"].values()}):
        tensors.update(load_file(os.path.join(folder, shard)))
    layers = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("layers.")})
    checked = different = blocks = 0
    for layer in layers:
        for group in GROUPS:
            names = [f"layers.{layer}.attn.{module}" for module in group]
            weights = {name: weight for name in names if (weight := read_bf16(tensors, name)) is not None}
            amax = max(weight.abs().amax() for weight in weights.values())
            for name, weight in weights.items():
                for method in modelopt_nvfp4.METHODS:
                    expected = modelopt_bytes(method, weight, amax)
                    for isa in isas:
                        checked += 1
                        if encode(binary, method, weight, amax, isa)[0] != expected:
                            different += 1
                            print(f"DIFFERS {name} {method} {isa}")
                blocks += weight.numel() // 16
    print(f"{checked} comparisons over {blocks} blocks of 16, {different} differ")
    return different


def speed(binary, rows, cols):
    torch.set_num_threads(1)
    weight = (torch.randn(rows, cols, generator=torch.Generator().manual_seed(1)) * 0.02).bfloat16()
    amax = weight.abs().amax()
    for method in modelopt_nvfp4.METHODS:
        start = time.perf_counter()
        expected = modelopt_bytes(method, weight, amax, modelopt_nvfp4.fake_quant_torch)
        theirs = time.perf_counter() - start
        found, ours = encode(binary, method, weight, amax, "auto", 5)
        print(f"{method}: ModelOpt {theirs:.3f} s, here {ours:.5f} s, ratio {theirs / ours:.0f}, "
              f"{weight.numel() / ours / 1e9:.3f} G weights/s, bytes {'equal' if found == expected else 'DIFFER'}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--isa", default="auto", help="comma list")
    parser.add_argument("--speed", nargs=2, type=int)
    args = parser.parse_args()
    if args.speed:
        return speed(args.binary, *args.speed)
    return 1 if check(args.binary, args.checkpoint, args.isa.split(",")) else 0


if __name__ == "__main__":
    sys.exit(main())
