#!/usr/bin/env python3
"""Compares quantize's output for the shared tiny DeepSeek-V4 with what NVIDIA ModelOpt made of the same model and amax.

    python3 tools/check_modelopt_bytes.py build/release/nibblecast MODELS_FOLDER

MODELS_FOLDER has `tiny-v4` (with oracle.safetensors: activation maxima) and `tiny-v4-modelopt` (sha256.json: dtype,
shape and hash of every routed expert tensor that ModelOpt's DeepSeek-V4 script wrote; its config files).
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


def quantize(nibblecast, source, destination, amax, negative_zero):
    subprocess.run([nibblecast, "quantize", source, destination, "--amax", amax, "--input-scale", "expert",
                    "--w2-input", "weighted", "--negative-zero", negative_zero, "--quiet"],
                   check=True, stdout=subprocess.DEVNULL)


def count_differences(what, expected, found):
    """Prints and counts the names whose values differ or that only one side has."""
    differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    for name in differing[:SHOWN]:
        print(f"  {name}: expected {expected.get(name)}, found {found.get(name)}")
    print(f"{what}: {len(expected)} expected, {len(differing)} differ")
    return len(differing) + (not expected)


def compare_tensors(output, reference):
    expected = {name: tuple(map(str, entry)) for name, entry in reference.items()}
    found = {name: (tensor.dtype, str(tensor.shape), hashlib.sha256(tensor.read()).hexdigest())
             for name, tensor in read_folder(output).items() if EXPERT.match(name)}
    return count_differences("expert tensors, as ModelOpt", expected, found)


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
        quantize(nibblecast, source, work / "modelopt", amax, "modelopt")
        quantize(nibblecast, source, work / "keep", amax, "keep")
        cast = json.loads((reference / "sha256.json").read_text())["cast"]
        differing = compare_tensors(work / "modelopt", cast)
        differing += compare_documents(work / "modelopt", reference)
        differing += compare_with_source(work / "keep", source)
    return 1 if differing else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
