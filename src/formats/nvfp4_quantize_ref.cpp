#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>

#include "formats/nvfp4_quantize.h"
#include "formats/nvfp4_scales.h"

namespace nibblecast {
namespace {

constexpr size_t kBlock = 16;

// As torch.Tensor.clamp: a NaN stays.
float clamp_scale(float scale) { return std::isnan(scale) ? scale : std::clamp(scale, 0x1p-9f, 448.0f); }

float block_amax(const float* values) {
  float amax = 0;
  for (size_t i = 0; i < kBlock; ++i) amax = std::max(amax, std::fabs(values[i]));
  return amax;
}

float block_loss(const float* values, float scale) {
  float errors[kBlock];
  for (size_t i = 0; i < kBlock; ++i) errors[i] = squared_error(values[i], scale);
  return sum_of_16(errors);
}

uint8_t block_scale(WeightMethod method, const Nvfp4Scales& scales, const float* values) {
  const float amax = block_amax(values);
  switch (method) {
    case WeightMethod::kMax:
      return scales.dynamic_scale(amax);
    case WeightMethod::kFourOverSix: {
      const float to_six = block_loss(values, scales.search_scale(amax));
      const float to_four = block_loss(values, scales.search_scale(amax * 1.5f));
      return scales.static_scale(to_four < to_six ? amax * 1.5f : amax);
    }
    case WeightMethod::kMse:
      break;
  }
  size_t best = 0;
  float least = block_loss(values, scales.search_scale(scales.candidate_amax(0)));
  for (size_t k = 1; k < kMseCandidates; ++k) {
    const float loss = block_loss(values, scales.search_scale(scales.candidate_amax(k)));
    if (loss < least) {
      least = loss;
      best = k;
    }
  }
  return scales.static_scale(scales.candidate_amax(best));
}

}  // namespace

Nvfp4Scales::Nvfp4Scales(WeightMethod method, float amax, float scale_2)
    : amax_(amax),
      fp8_max_(method == WeightMethod::kFourOverSix ? 256.0f : 448.0f),
      dynamic_divisor_(6.0f * scale_2),
      static_divisor_(amax / 6.0f) {
  const float e4m3_amax = amax * (448.0f / fp8_max_) / 6.0f;
  const float safe_amax = e4m3_amax <= 0x1p-24f ? 1.0f : e4m3_amax;
  to_e4m3_ = (1.0f / safe_amax) * 448.0f;  // PyTorch's 448 / tensor is reciprocal, then product
  from_e4m3_ = 1.0f / to_e4m3_;
}

uint8_t Nvfp4Scales::dynamic_scale(float block_amax) const {
  const float scale = block_amax / dynamic_divisor_;
  return encode_e4m3(clamp_scale(scale == 0 ? 1.0f : scale));
}

uint8_t Nvfp4Scales::static_scale(float block_amax) const {
  const float scale = block_amax / 6.0f;
  return encode_e4m3(clamp_scale((scale == 0 ? 1.0f : scale) * fp8_max_ / static_divisor_));
}

float Nvfp4Scales::search_scale(float block_amax) const {
  const float scale = block_amax / 6.0f * to_e4m3_;
  const float in_range = std::isnan(scale) ? scale : std::min(scale, 448.0f);
  const float result = decode_e4m3(encode_e4m3(in_range)) * from_e4m3_;
  return std::isfinite(result) ? result : 1.0f;
}

float Nvfp4Scales::candidate_amax(size_t k) const {
  return amax_ * (decode_e4m3(static_cast<uint8_t>(k + 1)) / 448.0f);
}

float sum_of_16(const float* errors) {
  float sum = errors[0] + errors[8];
  for (size_t i = 1; i < 8; ++i) sum += errors[i] + errors[8 + i];
  return sum;
}

float squared_error(float x, float scale) {
  const float magnitude = std::fabs(x);
  const float error =
      scale == 0 ? magnitude : magnitude - decode_e2m1(encode_e2m1(magnitude / scale)) * scale;
  return error * error;
}

template <class T>
AmaxScan scan_amax_ref(const T* values, size_t count) {
  AmaxScan scan;
  for (size_t i = 0; i < count; ++i) {
    const float magnitude = std::fabs(to_float(values[i]));
    if (std::isfinite(magnitude))
      scan.amax = std::max(scan.amax, magnitude);
    else if (!scan.non_finite)
      scan.non_finite = i;
  }
  return scan;
}

template AmaxScan scan_amax_ref(const bf16*, size_t);
template AmaxScan scan_amax_ref(const float*, size_t);

template <class T>
void Nvfp4Quantizer::encode_ref(const T* values, size_t rows, size_t cols, uint8_t* codes,
                                uint8_t* block_scales, RowLoss* losses) const {
  assert(cols % kBlock == 0);
  const Nvfp4Scales scales(method_, amax_, scale_2_);
  const size_t blocks_in_row = cols / kBlock;
  for (size_t row = 0; row < rows; ++row) {
    double errors[kBlock] = {}, squares[kBlock] = {};
    for (size_t block = row * blocks_in_row; block < (row + 1) * blocks_in_row; ++block) {
      float x[kBlock];
      for (size_t i = 0; i < kBlock; ++i) x[i] = to_float(values[block * kBlock + i]);
      block_scales[block] = amax_ == 0 ? encode_e4m3(1.0f) : block_scale(method_, scales, x);
      const float divisor = decode_e4m3(block_scales[block]) * scale_2_;
      uint8_t code[kBlock];
      for (size_t i = 0; i < kBlock; ++i) {
        code[i] = encode_e2m1(x[i] / divisor);
        const double error = double{x[i]} - double{decode_e2m1(code[i]) * divisor};
        errors[i] += error * error;
        squares[i] += double{x[i]} * double{x[i]};
      }
      for (size_t i = 0; i < kBlock / 2; ++i)
        codes[block * kBlock / 2 + i] = static_cast<uint8_t>(code[2 * i] | code[2 * i + 1] << 4);
    }
    if (losses == nullptr) continue;
    losses[row] = {};
    for (size_t i = 0; i < kBlock; ++i) {
      losses[row].squared_error += errors[i];
      losses[row].squares += squares[i];
    }
  }
}

template void Nvfp4Quantizer::encode_ref(const bf16*, size_t, size_t, uint8_t*, uint8_t*, RowLoss*) const;
template void Nvfp4Quantizer::encode_ref(const float*, size_t, size_t, uint8_t*, uint8_t*, RowLoss*) const;

}  // namespace nibblecast
