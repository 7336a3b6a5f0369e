#!/usr/bin/env python3
"""Writes tests/checkpoint/golden/*: files that the safetensors package made, for the C++ reader's tests.

    pip install safetensors==0.6.2
    python tools/make_safetensors_golden.py tests/checkpoint/golden
"""
import json
import pathlib
import sys

import safetensors

# dtype as the package spells it, its name in the file, bytes
DTYPES = [
    ("bool", "BOOL", 1), ("uint8", "U8", 1), ("int8", "I8", 1), ("float8_e5m2", "F8_E5M2", 1),
    ("float8_e4m3fn", "F8_E4M3", 1), ("float8_e8m0fnu", "F8_E8M0", 1), ("int16", "I16", 2), ("uint16", "U16", 2),
    ("float16", "F16", 2), ("bfloat16", "BF16", 2), ("int32", "I32", 4), ("uint32", "U32", 4),
    ("float32", "F32", 4), ("float64", "F64", 8), ("int64", "I64", 8), ("uint64", "U64", 8),
]


def tensor(dtype, shape, item_bytes):
    count = item_bytes
    for dimension in shape:
        count *= dimension
    return {"dtype": dtype, "shape": shape, "data": bytes(i % 251 for i in range(count))}


def main():
    assert safetensors.__version__ == "0.6.2"
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    tensors = {f"all.{name}": tensor(dtype, [3, 5], size) for dtype, name, size in DTYPES}
    tensors["scalar"] = tensor("float32", [], 4)
    tensors["empty"] = tensor("bfloat16", [0, 7], 2)
    tensors["Gr\u00fc\u00dfe \"\u4f60\u597d\" \\ \U0001f600"] = tensor("uint8", [1, 1, 2], 1)
    metadata = {"note": "line\nbreak \u00e4"}  # one key: the order of several is random
    safetensors.serialize_file(tensors, out / "all_dtypes.safetensors", metadata=metadata)
    safetensors.serialize_file({}, out / "nothing.safetensors")

    # What the package itself reads back: name, dtype, shape, by name.
    with open(out / "all_dtypes.json", "w", encoding="utf-8") as file:
        read = safetensors.deserialize((out / "all_dtypes.safetensors").read_bytes())
        rows = [[name, view["dtype"], view["shape"], view["data"].hex()] for name, view in sorted(read)]
        json.dump({"metadata": metadata, "tensors": rows}, file, indent=1, ensure_ascii=False)


if __name__ == "__main__":
    main()
