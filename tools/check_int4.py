#!/usr/bin/env python3
"""Holds what nibblecast makes of packed integers against compressed-tensors' own decompression.

usage: check_int4.py NIBBLECAST WORK

Packs the experts of a small synthetic model with compressed-tensors (pack-quantized, 4 bits, symmetric, groups of 32, as
Kimi-K2-Thinking's), has both decompress them to BF16, and compares every byte; then quantizes and verifies. WORK is a new folder.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 compressed-tensors==0.20.1 safetensors
    venv/bin/python tools/check_int4.py build/release/nibblecast /tmp/int4
"""
import json
import subprocess
import sys
from pathlib import Path

import torch
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor as Compressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import load_file, save_file

GROUP = 32
WEIGHTS = dict(num_bits=4, type="int", symmetric=True, strategy="group", group_size=GROUP)
STATED = {"quant_method": "compressed-tensors", "format": "pack-quantized",
          "config_groups": {"group_0": {"targets": ["Linear"], "input_activations": None,
                                        "weights": dict(WEIGHTS, dynamic=False, actorder=None)}}}


def pack(source, packed_folder, values_folder):
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**WEIGHTS))
    tensors, packed, values = {}, {}, {}
    for file in sorted(source.glob("*.safetensors")):
        tensors.update(load_file(file))
    for name, weight in tensors.items():
        if ".experts." not in name:
            packed[name] = values[name] = weight
            continue
        scale = weight.float().reshape(weight.shape[0], -1, GROUP).abs().amax(-1) / 7.5
        state = Compressor.compress({"weight": weight, "weight_scale": scale.to(torch.bfloat16)}, scheme)
        for part, tensor in state.items():
            packed[name.removesuffix("weight") + part] = tensor.contiguous()
        values[name] = Compressor.decompress(dict(state), scheme)["weight"].contiguous()
    config = json.loads((source / "config.json").read_text())
    for folder, state, stated in (packed_folder, packed, {"quantization_config": STATED}), (values_folder, values, {}):
        folder.mkdir()
        save_file(state, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(dict(config, **stated)))


def main():
    program, work = sys.argv[1], Path(sys.argv[2])
    work.mkdir()
    names = {name: work / name for name in ("bf16", "int4", "values", "ours", "nvfp4")}

    def run(*words):
        command = [program, *(str(names.get(word, word)) for word in words)]
        print("+", *command)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    run("synth", "deepseek-v3-tiny", "bf16")
    pack(names["bf16"], names["int4"], names["values"])
    run("dequantize", "int4", "ours", "--dtype", "bfloat16", "--quiet")
    found = run("compare", "ours", "values")
    print(found)
    run("quantize", "int4", "nvfp4", "--recipe", "w4a16_nvfp4", "--engine", "none", "--quiet")
    print(run("verify", "int4", "nvfp4"))
    if "equal bytes" not in found or " 0 different" not in found:
        sys.exit("the decompressed weights differ")


if __name__ == "__main__":
    main()
