#!/usr/bin/env python3
"""What weight methods cost a model, weights alone: KL divergence from the source and perplexity, by nibblecast's own evaluation.

    python3 tools/measure_methods.py build/release/nibblecast SRC --calib TEXTS --text TEXTS [--recipe NAME] [--methods A,B]

Calibrates once, with second moments; makes SRC by each method; evaluates all of them in one pass over the same rows, inputs of
linears unrounded (W4A16). Prints the rows of a table in docs/accuracy.md.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import tempfile


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(str(word) for word in command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nibblecast")
    parser.add_argument("source")
    parser.add_argument("--calib", required=True)
    parser.add_argument("--calib-size", default="63")
    parser.add_argument("--text", required=True)
    parser.add_argument("--text-size", default="32")
    parser.add_argument("--seq", default="192")
    parser.add_argument("--bos", default="auto")
    parser.add_argument("--recipe", default="w4a16_nvfp4")
    parser.add_argument("--methods", default="max,four_over_six,mse,wmse")
    parser.add_argument("--compute-dtype", default="float32")
    arguments = parser.parse_args()
    tool, source, methods = arguments.nibblecast, arguments.source, arguments.methods.split(",")
    rows = ["--bos", arguments.bos, "--compute-dtype", arguments.compute_dtype, "--quiet"]
    work = pathlib.Path(tempfile.mkdtemp())
    try:
        amax = work / "amax.safetensors"
        run(tool, "calibrate", source, "--calib", arguments.calib, "--calib-size", arguments.calib_size, "--calib-seq", arguments.seq,
            "--calib-rows", "docs", "--second-moments", "--device", "cpu", "-o", amax, *rows)
        for method in methods:
            run(tool, "quantize", source, work / method, "--recipe", arguments.recipe, "--weight-method", method, "--amax", amax,
                "--engine", "none", "--device", "cpu", "--quiet")
        found = json.loads(run(tool, "evaluate", source, *[work / method for method in methods], "--text", arguments.text, "--text-size",
                               arguments.text_size, "--text-seq", arguments.seq, "--text-rows", "docs", "--activations", "none",
                               "--device", "cpu", "--json", *rows))
        print_table(found, methods)
    finally:
        shutil.rmtree(work)


def print_table(found, methods):
    source, *candidates = found["models"]
    print(f"| the source | {source['perplexity']:.2f} | | | |")
    for method, candidate in zip(methods, candidates):
        against = candidate["against_source"]
        print(f"| `{method}` | {candidate['perplexity']:.2f} | {against['kl_mean']:.4f} ± {against['kl_stderr']:.4f} | {against['kl_p99']:.2f} | "
              f"{100 * against['top1_agreement']:.1f} % |")


if __name__ == "__main__":
    main()
