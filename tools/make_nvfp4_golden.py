#!/usr/bin/env python3
"""Makes tests/formats/golden/nvfp4_methods.json: BF16 weights with planted extremes and the bytes that ModelOpt's
library functions make of them by each weight method.

    venv/bin/python tools/make_nvfp4_golden.py tests/formats/golden/nvfp4_methods.json

Packages: see tools/modelopt_nvfp4.py. Bytes are hexadecimal, BF16 and scale_2 little-endian.
"""
import json
import sys

import torch

import modelopt_nvfp4

ROWS, COLS = 4, 64


def cases():
    torch.manual_seed(7)

    def normal(rows=ROWS):
        return torch.randn(rows, COLS)

    yield "normal", normal(16) * 0.02, None
    zeros = normal()
    zeros[0, :16] = 0
    zeros[1, 16:32] = -0.0
    zeros[2] = 0
    zeros[3, ::3] = -0.0
    yield "zeros", zeros, None
    yield "all zero in a group of amax 1", torch.zeros(1, COLS), 1.0
    yield "all zero in a group of amax 3000", torch.zeros(1, COLS), 3000.0
    yield "subnormal", normal() * 1e-39, None
    yield "smallest", torch.tensor([0.0, 1.0, -1.0, 2.0, 3.0, -7.0, 12.0, 127.0] * 8)[None] * 2.0**-133, None
    yield "subnormal beside normal", torch.cat([normal() * 1e-39, normal() * 1e-37]), None
    yield "huge", normal().clamp(-3, 3) * 1e38, None
    yield "largest", torch.full((1, COLS), 3.3895313892515355e38), None
    yield "above what 1.75 times still holds", normal().clamp(-2, 2) * 1.6e38, None
    yield "below the eager cast's epsilon", normal() * 1e-8, None
    yield "around the eager cast's epsilon", normal() * 2.0**-23, None
    outlier = normal() * 0.02
    outlier[1, 5] = 30.0
    yield "outlier", outlier, None
    far = normal() * 1e-5
    far[2, 60] = -1000.0
    yield "far outlier", far, None
    yield "octaves", normal(8) * torch.exp2(torch.linspace(0, -31, COLS * 8).reshape(8, COLS)), None
    grid = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0] * 4)
    yield "grid", torch.exp2(torch.arange(0.0, -24.0, -1.0))[:, None] * grid, None
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5.0, 0.0] * 4)
    yield "ties", torch.exp2(torch.arange(0.0, -8.0, -1.0))[:, None] * ties, 2688.0
    yield "ties of their own amax", ties[None] * torch.tensor([[1.0], [0.7], [0.3], [1e-3]]), None
    yield "one value", torch.full((2, COLS), 0.37), None
    yield "group of larger amax", normal() * 0.02, 1.0
    yield "group of much larger amax", normal() * 0.02, 1e4
    yield "laplace", torch.distributions.Laplace(0, 0.01).sample((16, COLS)), None


def to_hex(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes().hex()


def main():
    out = []
    for name, values, group in cases():
        weight = values.bfloat16()
        amax = torch.tensor(group).bfloat16() if group else weight.abs().amax()
        case = {"name": name, "rows": len(weight), "cols": COLS, "values": to_hex(weight), "amax": amax.float().item()}
        for method in modelopt_nvfp4.METHODS:
            codes, scales, scale_2 = modelopt_nvfp4.quantize(method, weight, amax)
            case[method] = {"codes": to_hex(codes), "scales": to_hex(scales), "scale_2": to_hex(scale_2.reshape(1))}
        out.append(case)
    with open(sys.argv[1], "w") as file:
        json.dump({"made_by": "tools/make_nvfp4_golden.py", "cases": out}, file, indent=0)


if __name__ == "__main__":
    main()
