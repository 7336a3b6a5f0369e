#!/usr/bin/env python3
"""Holds the GPU against the CPU: each checkpoint is quantized on both and evaluated on both, in float32.

usage: check_devices.py NIBBLECAST MODEL... [--text-seq 512]

MODEL holds a checkpoint, calib.jsonl and eval.jsonl. Compared are: weights, block scales and weight_scale_2 (to the byte), input_scale
(1e-4), each checkpoint's sum of losses a row (1e-5) and, without rounded activations, its divergence (1e-4 or 1 %), and the
errors by layer (1 %). With rounded activations one other rounding moves a block, so that they only have to agree within 5 % or 1e-3. The GPU's figures must be the
same to the bit in a second run with less memory. Exit code 1 where one is not so.
"""
import argparse
import json
import struct
import sys
import tempfile
from pathlib import Path

from nibblecast_program import run
from safetensors_files import read_all


class Findings:
    def __init__(self, name):
        self.name, self.wrong, self.largest = name, 0, {}

    def near(self, what, a, b, relative, absolute=0.0):
        difference = abs(a - b)
        self.largest[what] = max(self.largest.get(what, 0.0), difference / max(abs(a), 1e-30) if relative else difference)
        if not difference <= max(relative * abs(a), absolute):  # fails on NaN
            self.wrong += 1
            print(f"{self.name}: {what}: {a} on the CPU, {b} on the GPU")

    def same(self, what, a, b):
        if a != b:
            self.wrong += 1
            print(f"{self.name}: {what} differs")


def hold_outputs(cpu, gpu, findings):
    one, other = read_all(cpu), read_all(gpu)
    findings.same("the set of tensors", one.keys(), other.keys())
    for name in one.keys() & other.keys():
        if name.endswith("input_scale"):
            findings.near("input_scale", struct.unpack("<f", one[name].read())[0], struct.unpack("<f", other[name].read())[0], 1e-4)
        else:
            findings.same(name, (one[name].dtype, one[name].read()), (other[name].dtype, other[name].read()))


def hold_evaluations(cpu, gpu, rounded, findings):
    for a, b in zip(cpu["models"], gpu["models"]):
        loose = rounded and "against_source" in a
        mark = " (rounded)" if loose else ""
        for row, other in zip(a["rows"], b["rows"]):
            findings.near("loss of a row" + mark, row["nll_sum"], other["nll_sum"], 5e-3 if loose else 1e-5)
        if "against_source" in a:
            findings.near("kl_mean" + mark, a["against_source"]["kl_mean"], b["against_source"]["kl_mean"],
                          5e-2 if loose else 1e-2, 1e-3 if loose else 1e-4)
        for layer, other in zip(a.get("layers", []), b.get("layers", [])):
            for error in ("stream_error", "mixer_error", "ffn_error"):
                findings.near(error + mark, layer[error], other[error], 5e-2 if loose else 1e-2, 1e-3 if loose else 1e-6)


def figures(evaluation):
    """What must not depend on memory or run."""
    drop = ("seconds", "bytes", "identity", "path")
    return [{key: value for key, value in model.items() if key not in drop} for model in evaluation["models"]]


def check(program, model, length, work):
    findings = Findings(model.name)
    outputs = {}
    for device in ("cpu", "cuda"):
        outputs[device] = work / device
        run(program, "quantize", model, outputs[device], "--recipe", "nvfp4", "--weight-method", "max", "--calib", model / "calib.jsonl",
            "--calib-size", 16, "--calib-seq", length, "--bos", "never", "--compute-dtype", "float32", "--engine", "none",
            "--device", device, "--quiet")
    hold_outputs(outputs["cpu"], outputs["cuda"], findings)
    for activations in ("none", "nvfp4"):
        arguments = ["evaluate", model, outputs["cpu"], "--text", model / "eval.jsonl", "--text-rows", "docs", "--text-seq", length, "--bos", "never",
                     "--compute-dtype", "float32", "--activations", activations, "--json", "--quiet", "--device"]
        cpu = json.loads(run(program, *arguments, "cpu"))
        gpu = json.loads(run(program, *arguments, "cuda"))
        small = json.loads(run(program, *arguments, "cuda", "--device-memory", "3G"))
        hold_evaluations(cpu, gpu, activations == "nvfp4", findings)
        findings.same("what the GPU says with less memory", figures(gpu), figures(small))
    return findings


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("nibblecast")
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--text-seq", type=int, default=512)
    args = parser.parse_args()
    wrong = 0
    for model in args.models:
        with tempfile.TemporaryDirectory() as work:
            try:
                findings = check(args.nibblecast, model, args.text_seq, Path(work))
            except RuntimeError as error:
                print(f"{model.name}: {error}")
                wrong += 1
                continue
        wrong += findings.wrong
        print(f"{model.name}: {'equal' if not findings.wrong else f'{findings.wrong} findings'}; largest differences: "
              + ", ".join(f"{what} {value:.1e}" for what, value in findings.largest.items()), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
