#!/usr/bin/env python3
"""What a choice of input scales costs a model whose experts are cast (weights equal, so that all that is lost is the inputs').

    python3 tools/measure_w4a4.py build/release/nibblecast SRC [--calib-size 48] [--text-size 24] [--seq 512]

SRC has calib.jsonl and eval.jsonl beside it. Calibrates once in float32, makes SRC with each --input-scale and --w2-input, and evaluates each
under several rules for the scales in one pass. Prints the rows of a table in docs/accuracy.md, with the words of both commands.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import tempfile

# What `quantize` is given, and the rules that `evaluate --input-scales` tries on that output.
VARIANTS = [("--input-scale layer", "p99.99,1.0,x2,/2,/4,/8"), ("--input-scale expert", "own"), ("--w2-input unweighted", "x2"),
            ("--w2-input weighted", "x2")]


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(str(word) for word in command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def row(variant, found):
    against = found["against_source"]
    share = found["saturated_blocks"] / found["rounded_blocks"]
    return (f"| `{variant}` | `{found['input_scale']}` | {found['perplexity']:.3f} | {against['kl_mean']:.4f} ± {against['kl_stderr']:.4f} | "
            f"{100 * against['top1_agreement']:.1f} % | {100 * share:.4f} % |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nibblecast")
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("--calib-size", default="48")
    parser.add_argument("--text-size", default="24")
    parser.add_argument("--seq", default="512")
    arguments = parser.parse_args()
    tool, source = arguments.nibblecast, arguments.source
    common = ["--bos", "always", "--compute-dtype", "float32", "--device", "cpu", "--quiet"]
    work = pathlib.Path(tempfile.mkdtemp())
    try:
        amax = work / "amax.safetensors"
        run(tool, "calibrate", source, "--calib", source / "calib.jsonl", "--calib-size", arguments.calib_size, "--calib-seq", arguments.seq,
            "--calib-rows", "packed", "-o", amax, *common)
        print("| `quantize` | `--input-scales` | perplexity | KL | agreement | blocks that saturate |\n|---|---|---|---|---|---|")
        for number, (variant, rules) in enumerate(VARIANTS):
            output = work / str(number)
            run(tool, "quantize", source, output, "--recipe", "nvfp4_experts_only", "--amax", amax, *variant.split(), "--engine", "none",
                "--device", "cpu", "--quiet")
            found = json.loads(run(tool, "evaluate", source, output, "--text", source / "eval.jsonl", "--text-size", arguments.text_size,
                                   "--text-seq", arguments.seq, "--input-scales", rules, "--json", *common))
            for scale in found["models"][1]["input_scales"]:
                print(row(variant, scale), flush=True)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
