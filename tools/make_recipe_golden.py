#!/usr/bin/env python3
"""Writes which linears of DeepSeek-V4 ModelOpt quantizes by each preset, under transformers' names.

usage: make_recipe_golden.py MODEL_FOLDER OUT.json

MODEL_FOLDER needs its config.json only; the weights are random. For each preset: modules whose weight is quantized to
NVFP4, and whether their input is. Layers and experts are written as N, and the layers they stand in are counted.

Pinned: nvidia-modelopt 0.47.0, torch 2.11.0, transformers 5.17.0.
"""
import json
import re
import sys
from collections import Counter

import modelopt.torch.quantization as mtq
import torch
from transformers import AutoConfig, AutoModelForCausalLM

PRESETS = {
    "nvfp4": "NVFP4_DEFAULT_CFG",
    "nvfp4_experts_only": "NVFP4_EXPERTS_ONLY_CFG",
    "nvfp4_mlp_only": "NVFP4_MLP_ONLY_CFG",
    "nvfp4_omlp_only": "NVFP4_OMLP_ONLY_CFG",
    "w4a16_nvfp4": "W4A16_NVFP4_CFG",
}


def is_on(quantizer):
    quantizers = list(quantizer) if isinstance(quantizer, torch.nn.ModuleList) else [quantizer]
    return any(q.is_enabled and tuple(q.num_bits if isinstance(q.num_bits, tuple) else ()) == (2, 1) for q in quantizers)


def quantized_modules(config, preset):
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    mtq.quantize(model, getattr(mtq, preset))
    found = {}
    for name, quantizer in model.named_modules():
        match = re.fullmatch(r"(.*?)(_weight_quantizers?|\.weight_quantizer)", name)
        if not match or not is_on(quantizer):
            continue
        module = match[1]
        inputs = name.replace("weight_quantizers", "input_quantizer").replace("weight_quantizer", "input_quantizer")
        found[module] = is_on(model.get_submodule(inputs))
    return found


def main():
    folder, out = sys.argv[1:]
    config = AutoConfig.from_pretrained(folder)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    result = {}
    for name, preset in PRESETS.items():
        found = quantized_modules(config, preset)
        count = Counter((re.sub(r"\.\d+\.", ".N.", module), inputs) for module, inputs in found.items())
        result[name] = {module: {"count": n, "quantize_input": inputs} for (module, inputs), n in sorted(count.items())}
    with open(out, "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
