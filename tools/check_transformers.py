"""Loads what `dequantize` makes of NVFP4 outputs with transformers' own from_pretrained.

usage: check_transformers.py NIBBLECAST MODELS [FAMILY...] [--work DIR]

Needs transformers 5.20.2 and torch 2.14.0 (pip install transformers==5.20.2 torch==2.14.0, in an environment of its own). MODELS holds a folder a
family: a checkpoint of random weights, and eval.jsonl of token ids. Of each, unless nibblecast does not know the family: quantize (nvfp4, max),
verify, dequantize; then from_pretrained must find every key it looks for, no other, each of its shape, and the loss of eval.jsonl must be finite
and near the source's. Exit code 1 where one is not so.
"""
import argparse
import json
import math
import shutil
import sys
from pathlib import Path

import torch
import transformers

from nibblecast_program import NotSupported, run

# Four bits changed the loss of these models, whose weights are random, by up to 4.3 %.
TOLERANCE = 0.10
RECIPE = "--recipe nvfp4 --weight-method max --input-scale 1.0 --format modelopt --engine none".split()


def load(folder):
    """The model, and what from_pretrained says of keys."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)


def loss(model, rows):
    """Mean over all predicted tokens."""
    total = tokens = 0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row])
            total += model(ids, labels=ids).loss.item() * (len(row) - 1)
            tokens += len(row) - 1
    return total / tokens


def check(program, folder, work):
    """Problems, and the figures as text."""
    nvfp4, wide = work / f"{folder.name}-nvfp4", work / f"{folder.name}-wide"
    for made in (nvfp4, wide):
        shutil.rmtree(made, ignore_errors=True)
    run(program, "quantize", folder, nvfp4, *RECIPE)
    run(program, "verify", folder, nvfp4, "--engine", "none")
    run(program, "dequantize", nvfp4, wide)
    rows = [json.loads(line)["input_ids"] for line in open(folder / "eval.jsonl")]
    model, info = load(wide)
    keys = {name: len(info[name]) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    problems = [f"{name}: {info[name]}" for name, count in keys.items() if count > 0]
    found, source = loss(model, rows), loss(load(folder)[0], rows)
    if not (math.isfinite(found) and abs(found / source - 1) <= TOLERANCE):
        problems.append(f"the loss is not the source's within {TOLERANCE:.0%}")
    figures = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in keys.items())
    return problems, f"{figures}; loss {found:.4f}, of the source {source:.4f}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("models", type=Path)
    parser.add_argument("families", nargs="*")
    parser.add_argument("--work", type=Path, default=Path("/tmp/check_transformers"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    failed = 0
    for folder in sorted(path.parent for path in arguments.models.glob("*/eval.jsonl")):
        if arguments.families and folder.name not in arguments.families:
            continue
        try:
            problems, figures = check(arguments.program, folder, arguments.work)
        except NotSupported:
            print(f"{folder.name:12} is not supported")
            continue
        except RuntimeError as error:
            problems, figures = [str(error)], "not made"
        failed += bool(problems)
        print(f"{folder.name:12} {figures}: {'fits' if not problems else 'WRONG'}", flush=True)
        for problem in problems:
            print("   ", problem)
    sys.exit(1 if failed else 0)


main()
