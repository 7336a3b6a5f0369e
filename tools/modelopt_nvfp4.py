"""ModelOpt's NVFP4 weight methods on the CPU: its own calibrators, scales, rounding and packing.

The calibrators try candidates with a Triton kernel that needs CUDA. Here its device function runs in Triton's
interpreter (IEEE arithmetic of NumPy), many blocks a call.

    python3 -m venv venv && venv/bin/pip install nvidia-modelopt==0.47.0 torch==2.11.0 triton==3.6.0 numpy==2.4.6
"""
import os

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import torch
import triton
import triton.language as tl
from modelopt.torch.kernels.quantization.common import nvfp4_quant
from modelopt.torch.kernels.quantization.gemm.fp4_kernel import compute_fp4_scales
from modelopt.torch.quantization.calib.mse import MseCalibrator, NVFP4MSECalibrator
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

BLOCK = 16
TILE = 4096  # blocks a program
METHODS = ("max", "mse", "four_over_six")


@triton.jit
def _isnan(x):
    return x != x


class _Libdevice:  # the interpreter has no libdevice
    isnan = _isnan


nvfp4_quant.libdevice = _Libdevice
_scalar_quant = nvfp4_quant.nvfp4_scalar_quant


@triton.jit
def _fake_quant_kernel(x_ptr, y_ptr, scale_ptr, n_blocks, TILE: tl.constexpr, BLOCK: tl.constexpr):
    block = tl.program_id(axis=0) * TILE + tl.arange(0, TILE)
    mask = block < n_blocks
    at = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    scale = tl.load(scale_ptr + block, mask=mask, other=1.0)
    x = tl.load(x_ptr + at, mask=mask[:, None], other=0.0)
    tl.store(y_ptr + at, _scalar_quant(x, scale[:, None], BLOCK), mask=mask[:, None])


def fake_quant(x, amax, global_amax, fp8_max):
    """static_blockwise_fp4_fake_quant of fp4_kernel.py: x [blocks, 16] float32."""
    scale = compute_fp4_scales(amax, global_amax, True, fp8_max_for_normalization=fp8_max).contiguous().view(-1)
    y = torch.empty_like(x)
    _fake_quant_kernel[(triton.cdiv(len(x), TILE),)](x, y, scale, len(x), TILE=TILE, BLOCK=BLOCK)
    return y


def fake_quant_torch(x, amax, global_amax, fp8_max):
    """The same in PyTorch, for a fair time: the interpreter is slow."""
    scale = compute_fp4_scales(amax, global_amax, True, fp8_max_for_normalization=fp8_max).view(-1, 1)
    safe = torch.where((scale == 0) | ~torch.isfinite(scale), 1.0, scale)
    scaled = x.abs() / safe
    codes = torch.bucketize(scaled, NVFP4QTensor.get_e2m1_bounds(x.device))
    codes += (scaled == 0.75) | (scaled == 1.75) | (scaled == 3.5)
    values = NVFP4QTensor.get_e2m1_values(x.device)[codes] * safe
    return torch.where(scale == 0, 0.0, torch.where(x >= 0, values, -values))


class Quantizer:
    """What NVFP4QTensor asks of a weight quantizer."""

    def __init__(self, method, block_amax, global_amax):
        self.block_sizes = {-1: BLOCK, "four_over_six": method == "four_over_six"}
        if method == "max":
            self._amax = global_amax
        else:
            self._amax, self.global_amax = block_amax, global_amax


def search(method, weight, global_amax, fake_quant):
    """The block amaxes that the method's calibrator chooses."""
    blocks = weight.reshape(-1, BLOCK).float()
    amax = blocks.abs().amax(dim=-1, keepdim=True)
    fp8_max = 256.0 if method == "four_over_six" else 448.0

    def quant_func(x, candidate):
        return fake_quant(x, candidate, global_amax, fp8_max)

    if method == "mse":
        calibrator = NVFP4MSECalibrator(amax=amax, axis=0, global_amax=global_amax, quant_func=quant_func)
    else:
        calibrator = MseCalibrator(amax=amax, axis=0, step_size=0.5, start_multiplier=1.0, stop_multiplier=1.5,
                                   quant_func=quant_func)
    calibrator.collect(blocks)
    return calibrator.compute_amax()


def quantize(method, weight, global_amax=None, fake_quant=fake_quant):
    """bfloat16 [rows, cols] -> packed codes (uint8), block scales (uint8), scale_2 (float32 scalar tensor)."""
    assert weight.dtype == torch.bfloat16
    amax = (weight.abs().amax() if global_amax is None else global_amax).float()
    block_amax = None if method == "max" else search(method, weight, amax, fake_quant)
    quantizer = Quantizer(method, block_amax, amax)
    scale_2 = NVFP4QTensor.get_weights_scaling_factor_2_from_quantizer(quantizer)
    scales, _ = NVFP4QTensor.get_weights_scaling_factor_from_quantizer(quantizer, weight, scale_2)
    packed = NVFP4QTensor.quantize(weight, BLOCK, scales, scale_2)[0]._quantized_data
    return packed, scales.view(torch.uint8), scale_2
