#!/usr/bin/env python3
"""Holds `nibblecast evaluate` against logits that transformers computes.

    python3 -m venv venv && venv/bin/pip install torch==2.14.0 transformers==5.20.2 safetensors numpy
    venv/bin/python tools/check_evaluate.py build/release/nibblecast MODEL...

MODEL is a small BF16 checkpoint of a family that transformers has, with eval.jsonl and calib.jsonl of {"input_ids": [...]} lines. Each is
damaged in one layer in turn (a matrix of attention zeroed; the feed-forward half scaled by 1.01; two experts swapped), and quantized
(dense models: with activations rounded, by a hook on every linear that has an input_scale). For each variant: the KL divergence of both
programs, and the layer at which the streams' error begins. Exit code 1 where KL differs by more than 1e-4 and 1 %, or another layer is found.
"""
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

E2M1 = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6])
BOUNDS = torch.tensor([.25, .75, 1.25, 1.75, 2.5, 3.5, 5])
LAYER = 1


def rounded(x, input_scale):
    """The formulas of docs/formats/nvfp4.md, "Activations"."""
    blocks = x.float().reshape(-1, 16)
    exact = torch.minimum(blocks.abs().amax(1) / (torch.tensor(6.0) * input_scale), torch.tensor(448.0))
    scale = exact.to(torch.float8_e4m3fn).float() * input_scale
    scale = torch.where(scale >= 1e-5, scale, torch.tensor(1.0))[:, None]
    ratio = blocks.abs() / scale
    codes = torch.bucketize(ratio, BOUNDS) + ((ratio == .75) | (ratio == 1.75) | (ratio == 3.5))
    values = E2M1[codes] * scale
    return torch.where(blocks >= 0, values, -values).reshape(x.shape)


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def quantized(source, folder):
    """transformers' model with the values of a W4A4 checkpoint of dense linears, and their rounded inputs."""
    model, tensors = load(source), load_file(folder / "model.safetensors")
    modules = dict(model.named_modules())
    for name in [name.removesuffix(".weight_scale_2") for name in tensors if name.endswith(".weight_scale_2")]:
        packed = tensors[f"{name}.weight"]
        codes = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2).long()
        factor = tensors[f"{name}.weight_scale"].float() * tensors[f"{name}.weight_scale_2"]
        modules[name].weight.data = E2M1[codes] * factor.repeat_interleave(16, dim=1)
        scale = tensors[f"{name}.input_scale"].float()
        modules[name].register_forward_pre_hook(lambda module, inputs, scale=scale: (rounded(inputs[0], scale),))
    return model


def log_probabilities(model, rows):
    with torch.no_grad():
        return [torch.log_softmax(model(torch.tensor([row])).logits[0].double(), dim=-1)[:-1] for row in rows]


def kl(reference, found):
    total = sum((p.exp() * (p - q)).sum().item() for p, q in zip(reference, found))
    return total / sum(len(p) for p in reference)


def damaged(tensors, damage):
    """The tensors with one layer's damage; nothing where the model has no such part."""
    copy = dict(tensors)
    of = lambda pattern: [name for name in tensors if re.fullmatch(rf"model\.layers\.{LAYER}\.{pattern}", name)]
    if damage == "zero":
        for name in of(r"self_attn\.v_proj\.weight"):
            copy[name] = torch.zeros_like(tensors[name])
    if damage == "scale":
        for name in of(r"(mlp|block_sparse_moe).*(down_proj|w2)\.weight"):
            copy[name] = (tensors[name].float() * 1.01).to(tensors[name].dtype)
    if damage == "swap":
        first = of(r".*\.experts\.0\..*weight")
        for name in first:
            other = name.replace(".experts.0.", ".experts.1.")
            copy[name], copy[other] = tensors[other], tensors[name]
        if not first:
            return None
    return copy


def evaluate(nibblecast, source, candidate, text, activations):
    command = [nibblecast, "evaluate", source, candidate, "--text", text, "--text-rows", "docs", "--compute-dtype", "float32",
               "--activations", activations, "--json", "--quiet"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)["models"][1]


def report(model, variant, expected, found, layer=None):
    own = found["against_source"]["kl_mean"]
    begins = next((each["layer"] for each in found["layers"] if each["stream_error"] > 0), None)
    good = abs(own - expected) <= max(1e-4, 0.01 * expected) and layer in (None, begins)
    print(f"{model:12} {variant:10} transformers {expected:.8f}  nibblecast {own:.8f}  begins in layer {begins}"
          f"{'' if good else '  WRONG'}")
    return good


def check(nibblecast, source, work):
    rows = [json.loads(line)["input_ids"] for line in (source / "eval.jsonl").open()]
    reference = log_probabilities(load(source), rows)
    tensors, text, good = load_file(source / "model.safetensors"), source / "eval.jsonl", True
    for damage in ("zero", "scale", "swap"):
        copy = damaged(tensors, damage)
        if copy is None:
            continue
        folder = work / f"{source.name}-{damage}"
        folder.mkdir()
        shutil.copy(source / "config.json", folder)
        save_file({name: tensor.contiguous().clone() for name, tensor in copy.items()}, folder / "model.safetensors",
                  metadata={"format": "pt"})
        expected = kl(reference, log_probabilities(load(folder), rows))
        good &= report(source.name, damage, expected, evaluate(nibblecast, source, folder, text, "none"), LAYER)
    if not any(".experts." in name for name in tensors):
        folder = work / f"{source.name}-nvfp4"
        subprocess.run([nibblecast, "quantize", source, folder, "--recipe", "nvfp4", "--calib", source / "calib.jsonl",
                        "--quiet"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        expected = kl(reference, log_probabilities(quantized(source, folder), rows))
        good &= report(source.name, "W4A4", expected, evaluate(nibblecast, source, folder, text, "nvfp4"))
    return good


def main():
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as work:
        results = [check(sys.argv[1], pathlib.Path(model), pathlib.Path(work)) for model in sys.argv[2:]]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
