#!/usr/bin/env python3
"""Compares quantize's output for the shared tiny DeepSeek-V4 with what NVIDIA ModelOpt made of the same model and amax.

    python3 tools/check_modelopt_bytes.py build/release/nibblecast MODELS_FOLDER

MODELS_FOLDER has `tiny-v4` (with oracle.safetensors: activation maxima) and `tiny-v4-modelopt` (sha256.json: dtype,
shape and hash of every routed expert tensor that ModelOpt's DeepSeek-V4 script wrote, cast and by `max`; its config files;
nvfp4-full.json: the same of its `nvfp4` preset, calibrated on 48 packed rows in float32). Weights and their scales must be
equal to the byte; input scales too where the amax was given, within 1e-4 where our own forward pass measured it.
Also checked: with `--negative-zero keep` the weights' bytes are the source's. Exit code 1 on any difference.
Standard library only.
"""
import hashlib
import json
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

from safetensors_files import read_file, read_folder, without_producer, write_amax

EXPERT = re.compile(r"layers\.\d+\.ffn\.experts\.\d+\.w[123]\.")
INPUT_SCALE = ".input_scale"
SHOWN = 5  # differences printed of each kind


def import_amax(oracle, path):
    """The vectors ModelOpt was given: w1 and w3 as measured, w2 with the routing weight."""
    vectors = {}
    for name, tensor in read_file(oracle).items():
        match = re.fullmatch(r"calib\.layers\.(\d+)\.experts\.(w13|w2_weighted)", name)
        if match:
            kind = {"w13": "w13.input_amax", "w2_weighted": "w2.input_amax_weighted"}[match[2]]
            values = struct.unpack(f"<{tensor.shape[0]}f", tensor.read())
            vectors[f"layers.{match[1]}.ffn.experts.{kind}"] = (tensor.shape, values)
    write_amax(path, vectors)


def quantize(nibblecast, source, destination, *options):
    subprocess.run([nibblecast, "quantize", source, destination, *options, "--quiet"], check=True,
                   stdout=subprocess.DEVNULL)


def count_differences(what, expected, found):
    """Prints and counts the names whose values differ or that only one side has."""
    differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    for name in differing[:SHOWN]:
        print(f"  {name}: expected {expected.get(name)}, found {found.get(name)}")
    print(f"{what}: {len(expected)} expected, {len(differing)} differ")
    return len(differing) + (not expected)


def digest(tensor):
    return tensor.dtype, str(tensor.shape), hashlib.sha256(tensor.read()).hexdigest()


def compare_tensors(what, output, reference):
    expected = {name: tuple(map(str, entry)) for name, entry in reference.items()}
    found = {name: digest(tensor) for name, tensor in read_folder(output).items() if EXPERT.match(name)}
    return count_differences(what, expected, found)


def compare_full(output, reference):
    """Every module of the preset: weight and scales by hash, input_scale by value."""
    tensors = read_folder(output)
    expected = {name: tuple(map(str, entry[:3])) for name, entry in reference.items() if not name.endswith(INPUT_SCALE)}
    modules = {name.rpartition(".")[0] for name in reference}
    found = {name: digest(tensor) for name, tensor in tensors.items()
             if name.rpartition(".")[0] in modules and not name.endswith(INPUT_SCALE)}
    differing = count_differences(f"full preset, {len(modules)} modules, as ModelOpt", expected, found)
    worst = 0.0
    for name, entry in reference.items():
        if not name.endswith(INPUT_SCALE):
            continue
        (value,) = struct.unpack("<f", tensors[name].read()) if name in tensors else (float("inf"),)
        error = abs(value / entry[3] - 1)
        worst = max(worst, error)
        if not error <= 1e-4:
            print(f"  {name}: expected {entry[3]}, found {value}")
            differing += 1
    print(f"full preset, input scales: largest relative difference {worst:.2g}")
    return differing


def compare_documents(output, reference):
    def load(folder):
        return {name: without_producer(json.loads((folder / name).read_text()))
                for name in ("config.json", "hf_quant_config.json")}
    return count_differences("documents, producer left out", load(reference), load(output))


def compare_with_source(output, source):
    """Expert weights and every tensor that is not an expert's: the source's bytes."""
    def digests(folder):
        return {name: hashlib.sha256(tensor.read()).hexdigest() for name, tensor in read_folder(folder).items()
                if not EXPERT.match(name) or name.endswith(".weight")}
    return count_differences("kept: nibbles and other tensors, as the source", digests(source), digests(output))


def main(nibblecast, models):
    models = pathlib.Path(models)
    source, reference = models / "tiny-v4", models / "tiny-v4-modelopt"
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        amax = work / "amax.safetensors"
        import_amax(source / "oracle.safetensors", amax)
        script = ("--amax", amax, "--input-scale", "expert", "--w2-input", "weighted")
        quantize(nibblecast, source, work / "modelopt", *script, "--negative-zero", "modelopt")
        quantize(nibblecast, source, work / "keep", *script, "--negative-zero", "keep")
        quantize(nibblecast, source, work / "max", *script, "--weight-method", "max")
        quantize(nibblecast, source, work / "full", "--recipe", "nvfp4", "--weight-method", "max", "--engine", "none",
                 "--input-scale", "layer", "--w2-input", "unweighted", "--compute-dtype", "float32",
                 "--calib", source / "calib.jsonl", "--calib-rows", "packed", "--calib-size", "48")
        hashes = json.loads((reference / "sha256.json").read_text())
        differing = compare_tensors("expert tensors, cast, as ModelOpt", work / "modelopt", hashes["cast"])
        differing += compare_tensors("expert tensors, by max, as ModelOpt", work / "max", hashes["max"])
        differing += compare_full(work / "full", json.loads((reference / "nvfp4-full.json").read_text()))
        differing += compare_documents(work / "modelopt", reference)
        differing += compare_with_source(work / "keep", source)
    return 1 if differing else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
