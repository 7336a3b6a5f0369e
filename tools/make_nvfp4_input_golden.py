#!/usr/bin/env python3
"""Makes tests/formats/golden/nvfp4_input.json: activations rounded to NVFP4 by ModelOpt's fake quantization.

    python3 -m venv venv && venv/bin/pip install nvidia-modelopt==0.47.0 torch==2.14.0 triton==3.8.0 numpy==2.3.5
    venv/bin/python tools/make_nvfp4_input_golden.py tests/formats/golden/nvfp4_input.json

Runs ModelOpt's own kernel (fp4_fake_quant_kernel, what dynamic_block_quantize_op calls on a GPU) in Triton's interpreter: IEEE
arithmetic of NumPy, where a GPU divides approximately. The interpreter narrows numbers otherwise than hardware (E4M3's subnormals are lost, BF16
is cut off); so E4M3 is rounded by arithmetic here, and the output is FP32 that PyTorch rounds.
"""
import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import torch
import triton
import triton.language as tl
from modelopt.torch.kernels.quantization.gemm import fp4_kernel_hopper

COLS = 64


@triton.jit
def _quantize_scale(block_amax, global_scale):
    """fp8_quantize_scale of common/nvfp4_quant.py, its cast to the nearest E4M3 number spelled out."""
    scale = tl.minimum(block_amax / (6.0 * global_scale), 448.0)
    power = (scale.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    step = tl.maximum(power, 0.015625) * 0.125  # the least normal number is 2^-6; three bits of mantissa
    steps = (scale / step + 12582912.0) - 12582912.0  # to nearest even
    return steps * step * global_scale


fp4_kernel_hopper.fp8_quantize_scale = _quantize_scale


def fake_quantize(x, input_scale):
    """x [rows, 64], bfloat16 or float32, under amax / 2688 = input_scale."""
    rows = len(x)
    wide = x.float().contiguous()
    y = torch.empty_like(wide)
    scale = torch.tensor([input_scale], dtype=torch.float32)
    fp4_kernel_hopper.fp4_fake_quant_kernel[(triton.cdiv(rows, 16), 1)](
        wide, y, rows, COLS, scale, COLS, 1, COLS, 1, BLOCK_SIZE=16, TILE_M=16, TILE_N=COLS,
        NUM_FP4_BLOCKS=COLS // 16, OUT_DTYPE=tl.float32)
    return y.to(x.dtype)


def planted(input_scale):
    """Blocks at the edges: zeros, signs, ties of E2M1 under a block scale of 1, saturation, underflow."""
    ties = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5.0, -6.0]
    below = [6 * 2**-10 * factor for factor in (0.9, 1, 1.1, -0.2, 0, 0.5, -1, 1)] * 2
    rows = [[0.0] * 16 + [-0.0] * 8 + [1e-8] * 8 + [tie * input_scale for tie in ties] + [tie * 448 * input_scale for tie in ties],
            [tie * 1000 * input_scale for tie in ties] + [b * input_scale for b in below] +
            [1e-5 * (i - 7) for i in range(16)] + [1e-6 * (i - 7) for i in range(16)]]
    return torch.tensor(rows, dtype=torch.float32)


def hex_of(x):
    return x.contiguous().view(torch.uint8).numpy().tobytes().hex()


def main():
    torch.manual_seed(1)
    cases = []
    for input_scale in (1.0, 1 / 2688, 0.0123, 3e-6):
        scale = float(torch.tensor(input_scale, dtype=torch.float32))
        spread = torch.randn(14, COLS) * torch.exp(torch.randn(14, COLS)) * scale * 200
        for dtype, word in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
            x = torch.cat([planted(scale), spread]).to(dtype)
            cases.append({"dtype": word, "input_scale": scale, "x": hex_of(x), "y": hex_of(fake_quantize(x, scale))})
    with open(sys.argv[1], "w") as file:
        json.dump({"made_by": "tools/make_nvfp4_input_golden.py", "cases": cases}, file, indent=0)
        file.write("\n")


if __name__ == "__main__":
    main()
