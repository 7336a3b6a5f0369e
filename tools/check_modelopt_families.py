"""Holds what nibblecast makes of tiny models of many families against what NVIDIA ModelOpt exports of them.

usage: check_modelopt_families.py NIBBLECAST MODELS [FAMILY...] [--device D] [--work DIR] [--bf16]

MODELS holds a folder a family: a checkpoint, calib.jsonl, and modelopt-PRESET.json for each preset: of ModelOpt's
export [dtype, shape, sha256, value of a scalar] of each tensor, and its two JSON documents. Weights, block scales and
weight_scale_2 must be equal to the byte, input_scale within 1e-4 (the forward pass runs in float32 on both sides), what is
not quantized must be the source's bytes (of FP8 tiles their values as BF16), and both documents must exclude the same modules. Exit code 1 where one is not so.

--bf16 instead: a forward pass in bfloat16, as users run it: input_scale within 3 % (15 % for the experts' down, where routings flip), and the
perplexity of eval.jsonl within 2 % of oracle.json's, which is transformers' in float32; in float32 within 1e-5.
"""
import argparse
import hashlib
import json
import math
import shutil
import struct
import subprocess
import sys
from pathlib import Path

from safetensors_files import read_all

TOLERANCE = 1e-4
ARGUMENTS = ("--weight-method max --calib-size 16 --calib-seq 512 --bos never --compute-dtype float32 --input-scale layer "
             "--w2-input unweighted --format modelopt --engine none").split()


def read_checkpoint(folder):
    """name -> (dtype, shape, bytes), over all shards."""
    return {name: (tensor.dtype, tensor.shape, tensor.read()) for name, tensor in read_all(folder).items()}


def e4m3(code):
    exponent, mantissa = code >> 3 & 15, code & 7
    value = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0**(exponent - 7)
    return -value if code & 128 else value


def rounded_product(code, scale):
    """The upper half of a float32: E4M3 times scale in float32 (the product is exact in a double), to nearest even."""
    bits = struct.unpack("<I", struct.pack("<f", e4m3(code) * scale))[0]
    return bits + 0x7fff + (bits >> 16 & 1) >> 16


def as_bf16(source, name):
    """What the form without FP8 tiles says of such a weight."""
    _, (rows, cols), codes = source[name]
    dtype, (_, tiles), scales = source[name + "_scale_inv"]
    assert dtype == "F32"
    scales = struct.unpack(f"<{len(scales) // 4}f", scales)
    tables = {}
    words = []
    for row in range(rows):
        for col in range(0, cols, 128):
            scale = scales[row // 128 * tiles + col // 128]
            if scale not in tables:
                tables[scale] = [rounded_product(code, scale) & 0xffff for code in range(256)]
            table = tables[scale]
            words += [table[code] for code in codes[row * cols + col:row * cols + min(col + 128, cols)]]
    return "BF16", [rows, cols], struct.pack(f"<{len(words)}H", *words)


def kept(source, name):
    if name + "_scale_inv" in source:
        return as_bf16(source, name)
    return source.get(name)


def compare_tensors(golden, made, source):
    problems, worst = [], 0.0
    for name, entry in golden.items():
        if name not in made:
            # ModelOpt writes a tied head out, or leaves it; the source decides here.
            if name in source or name != "lm_head.weight":
                problems.append(f"{name}: missing")
            continue
        dtype, shape, data = made[name]
        if name.endswith(".input_scale"):
            value = struct.unpack("<f", data)[0]
            worst = max(worst, abs(value / entry[3] - 1))
        elif name.endswith((".weight_scale", ".weight_scale_2")) or dtype == "U8":
            if [dtype, shape, hashlib.sha256(data).hexdigest()] != entry[:3]:
                problems.append(f"{name}: {dtype} {shape} differs from {entry[:2]}")
        elif made[name] != kept(source, name):
            problems.append(f"{name}: is not the source's")
    problems += [f"{name}: ModelOpt has no such tensor" for name in made if name not in golden]
    if not worst <= TOLERANCE:
        problems.append(f"input_scale: {worst:.2e} off")
    return problems, worst


def compare_documents(golden, folder):
    problems = []
    hf = json.loads((folder / "hf_quant_config.json").read_text())["quantization"]
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    expected = golden["hf_quant_config"]["quantization"]
    if hf["exclude_modules"] != config["ignore"]:
        problems.append("the two documents exclude other modules")
    if hf["quant_algo"] != expected["quant_algo"] or config["quant_algo"] != expected["quant_algo"]:
        problems.append(f"quant_algo: {hf['quant_algo']}, ModelOpt {expected['quant_algo']}")
    # What could be quantized: norms are no modules here.
    modules = {name.rsplit(".", 1)[0] for name, entry in golden["tensors"].items()
               if name.endswith(".weight") and len(entry[1]) == 2}
    quantized = {name[:-len(".weight_scale")] for name in golden["tensors"] if name.endswith(".weight_scale")}

    def excluded(patterns):
        from fnmatch import fnmatch
        return {m for m in modules if any(fnmatch(m, p) or m.startswith(p.rstrip("*")) for p in patterns)}

    for module in quantized & excluded(hf["exclude_modules"]):
        problems.append(f"{module} is quantized and excluded")
    missing = excluded(expected["exclude_modules"]) - excluded(hf["exclude_modules"])
    problems += [f"{module}: ModelOpt excludes it" for module in sorted(missing)]
    return problems


def check(program, folder, preset, device, work):
    golden = json.loads((folder / f"modelopt-{preset}.json").read_text())
    out = work / f"{folder.name}-{preset}"
    shutil.rmtree(out, ignore_errors=True)
    command = [program, "quantize", str(folder), str(out), "--recipe", preset, "--calib", str(folder / "calib.jsonl"),
               *ARGUMENTS, "--device", device]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        return [f"{' '.join(command)}\n{run.stderr}"], 0.0, 0
    verify = subprocess.run([program, "verify", str(folder), str(out), "--engine", "none"], capture_output=True, text=True)
    made, source = read_checkpoint(out), read_checkpoint(folder)
    problems, worst = compare_tensors(golden["tensors"], made, source)
    problems += compare_documents(golden, out)
    if verify.returncode != 0:
        problems.append("verify: " + verify.stdout + verify.stderr)
    shutil.rmtree(out)
    return problems, worst, sum(name.endswith(".weight_scale") for name in made)


def perplexity(program, folder, dtype, device, work):
    amax = work / "perplexity.safetensors"
    shutil.rmtree(f"{amax}.nibblecast", ignore_errors=True)
    amax.unlink(missing_ok=True)
    run = subprocess.run([program, "calibrate", str(folder), "--calib", str(folder / "eval.jsonl"), "--calib-size", "4", "--bos",
                          "never", "--compute-dtype", dtype, "-o", str(amax), "--json", "--device", device],
                         capture_output=True, text=True, check=True)
    return json.loads(run.stdout)["perplexity"]


def check_bf16(program, folder, device, work):
    """Problems, and the figures as text."""
    golden = json.loads((folder / "modelopt-nvfp4.json").read_text())["tensors"]
    out = work / f"{folder.name}-bf16"
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run([program, "quantize", str(folder), str(out), "--recipe", "nvfp4", "--weight-method", "max", "--calib",
                    str(folder / "calib.jsonl"), "--calib-size", "16", "--bos", "never", "--w2-input", "unweighted", "--engine",
                    "none", "--device", device], capture_output=True, check=True)
    worst = {True: 0.0, False: 0.0}  # by: an expert's down
    for name, (_, _, data) in read_checkpoint(out).items():
        if name.endswith(".input_scale"):
            is_down = ".experts." in name and name.split(".")[-2] in ("down_proj", "w2")
            off = abs(struct.unpack("<f", data)[0] / golden[name][3] - 1)
            worst[is_down] = max(worst[is_down], off)
    shutil.rmtree(out)
    rows = json.loads((folder / "oracle.json").read_text())["rows"]
    expected = math.exp(sum(row["nll_sum"] for row in rows) / sum(row["tokens"] - 1 for row in rows))
    off = {dtype: perplexity(program, folder, dtype, device, work)["value"] / expected - 1 for dtype in ("bfloat16", "float32")}
    fits = (worst[False] <= 0.03 and worst[True] <= 0.15 and abs(off["bfloat16"]) <= 0.02 and abs(off["float32"]) <= 1e-5)
    figures = (f"input_scale within {worst[False]:.2%}, experts' down {worst[True]:.2%}; perplexity {off['bfloat16']:+.2%}, "
               f"in float32 {off['float32']:+.1e}")
    return [] if fits else ["outside of what is allowed"], figures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("models", type=Path)
    parser.add_argument("families", nargs="*")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, default=Path("/tmp/check_modelopt_families"))
    parser.add_argument("--bf16", action="store_true")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    failed = 0
    for folder in sorted(p for p in arguments.models.iterdir() if p.is_dir()):
        if arguments.families and folder.name not in arguments.families:
            continue
        if arguments.bf16:
            problems, figures = check_bf16(arguments.program, folder, arguments.device, arguments.work)
            failed += bool(problems)
            print(f"{folder.name:12} {figures}: {'fits' if not problems else problems[0]}")
            continue
        for golden in sorted(folder.glob("modelopt-*.json")):
            preset = golden.stem[len("modelopt-"):]
            problems, worst, count = check(arguments.program, folder, preset, arguments.device, arguments.work)
            failed += bool(problems)
            print(f"{folder.name:12} {preset:20} {count:4} weights, input_scale within {worst:.1e}: "
                  + ("equal" if not problems else f"{len(problems)} problems"))
            for problem in problems[:8]:
                print("   ", problem)
    sys.exit(1 if failed else 0)


main()
