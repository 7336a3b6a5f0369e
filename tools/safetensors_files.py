"""Reads and writes safetensors files with Python's standard library alone: enough to compare checkpoints byte by byte.

Format: https://github.com/huggingface/safetensors#format
"""
import json
import pathlib
import struct
from typing import NamedTuple


class Tensor(NamedTuple):
    dtype: str
    shape: list
    path: pathlib.Path
    offset: int  # of its first byte in the file
    size: int    # bytes

    def read(self):
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def read_file(path):
    """Name -> Tensor of one file; nothing but the header is read."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {name: Tensor(entry["dtype"], entry["shape"], pathlib.Path(path), 8 + length + entry["data_offsets"][0],
                         entry["data_offsets"][1] - entry["data_offsets"][0])
            for name, entry in header.items()}


def read_all(folder):
    """Name -> Tensor of all files of a folder, index or not."""
    return {name: tensor for path in sorted(pathlib.Path(folder).glob("*.safetensors")) for name, tensor in read_file(path).items()}


def read_folder(folder):
    """Name -> Tensor of all shards that the folder's index names."""
    folder = pathlib.Path(folder)
    weight_map = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    shards = {shard: read_file(folder / shard) for shard in set(weight_map.values())}
    return {name: shards[shard][name] for name, shard in weight_map.items()}


def write_amax(path, tensors, metadata=None):
    """An amax file (docs/formats/amax.md): name -> (shape, floats)."""
    header, data = {"__metadata__": {"format": "nibblecast.amax/1", **(metadata or {})}}, b""
    for name, (shape, values) in tensors.items():
        begin = len(data)
        data += struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def without_producer(value):
    """A JSON document without the fields that name the program that wrote it."""
    if isinstance(value, dict):
        return {key: without_producer(part) for key, part in value.items() if key != "producer"}
    return value
