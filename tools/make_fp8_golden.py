#!/usr/bin/env python3
"""Makes tests/formats/golden/fp8_weights.json: BF16 weights and the FP8 codes and scales that ModelOpt exports.

    python3 -m venv venv && venv/bin/pip install nvidia-modelopt==0.47.0 torch==2.11.0
    venv/bin/python tools/make_fp8_golden.py tests/formats/golden/fp8_weights.json

Per tensor (tile 0) and in tiles of 16 x 16, so that the file stays small. Bytes are hexadecimal, BF16 and F32
little-endian.
"""
import copy
import json
import sys

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export.unified_export_hf import _export_quantized_weight
from modelopt.torch.quantization.qtensor.fp8_tensor import FP8QTensor

TILE = 16


class Model(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.bfloat16)
        with torch.no_grad():
            self.linear.weight.copy_(weight)

    def forward(self, x):
        return self.linear(x)


def export(weight, tile):
    """By the exporter, from a quantized module."""
    config = copy.deepcopy(mtq.FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG if tile else mtq.FP8_DEFAULT_CFG)
    for entry in config["quant_cfg"]:
        if tile and entry["quantizer_name"] == "*weight_quantizer":
            entry["cfg"]["block_sizes"] = {-1: tile, -2: tile}
    model = mtq.quantize(Model(weight), config, lambda m: m(torch.ones(2, weight.shape[1], dtype=torch.bfloat16)))
    _export_quantized_weight(model.linear, torch.bfloat16)
    return model.linear.weight.data, model.linear.weight_scale.float()


def quantize_edges(weight, tile):
    """By the exporter's last step, which pads: its calibrator does not keep the shape of a padded weight."""
    rows, cols = (-size % tile for size in weight.shape)
    padded = torch.nn.functional.pad(weight, (0, cols, 0, rows)).float()
    tiles = padded.reshape(padded.shape[0] // tile, tile, padded.shape[1] // tile, tile)
    scales = tiles.abs().amax(dim=(1, 3)) / 448.0
    return FP8QTensor.quantize(weight, scales, block_sizes={-1: tile, -2: tile})[0]._quantized_data, scales


def cases():
    torch.manual_seed(11)
    plain = torch.randn(32, 48) * 0.02
    plain[16:, 16:32] = 0
    plain[0, ::3] = -0.0
    wide = torch.randn(32, 48) * torch.exp2(torch.linspace(0, -24, 48))
    outlier = torch.randn(32, 48) * 0.01
    outlier[20, 20] = 77.0
    for name, values in (("plain", plain), ("octaves", wide), ("outlier", outlier), ("subnormal", wide * 2.0**-120),
                         ("huge", plain * 1e38 * 40)):
        yield name, values.bfloat16(), 0, export
        yield name, values.bfloat16(), TILE, export
    yield "edges", torch.randn(21, 37).bfloat16(), TILE, quantize_edges


def to_hex(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes().hex()


def main():
    out = []
    for name, weight, tile, quantize in cases():
        codes, scales = quantize(weight, tile)
        out.append({"name": name, "rows": weight.shape[0], "cols": weight.shape[1], "tile": tile,
                    "values": to_hex(weight), "codes": to_hex(codes), "scales": to_hex(scales.reshape(-1))})
    with open(sys.argv[1], "w") as file:
        json.dump({"made_by": "tools/make_fp8_golden.py", "cases": out}, file, indent=0)


if __name__ == "__main__":
    main()
