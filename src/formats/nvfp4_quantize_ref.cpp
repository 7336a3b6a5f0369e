#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <limits>

#include "formats/nvfp4_quantize.h"
#include "formats/nvfp4_scales.h"
#include "formats/nvfp4_sweep.h"

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

float block_loss(const float* values, const float* weights, float scale) {
  float errors[kBlock];
  for (size_t i = 0; i < kBlock; ++i) {
    errors[i] = squared_error(values[i], scale);
    if (weights != nullptr) errors[i] *= weights[i];
  }
  return sum_of_16(errors);
}

// Of nvfp4_sweep.h.
class PlainBlock {
 public:
  PlainBlock(const float* values, const float* weights, const SweepScales& scales)
      : values_(values), weights_(weights), scales_(scales) {}

  size_t start() const {
    const float amax = block_amax(values_);
    size_t k = 0;
    while (k + 1 < kMseCandidates && scales_.limits[k] < amax) ++k;
    return k;
  }
  Least window(size_t first) {
    Least least{loss(first), first};
    losses_[0] = least.loss;
    for (size_t i = 1; i < kWindow; ++i) {
      losses_[i] = loss(first + i);
      least.take(losses_[i], first + i);
    }
    return least;
  }
  unsigned at_most(float most) const {
    unsigned bits = 0;
    for (size_t i = 0; i < kWindow; ++i) bits |= unsigned{losses_[i] <= most} << i;
    return bits;
  }
  float loss(size_t k) const { return block_loss(values_, weights_, scales_.scales[k]); }
  float floor(size_t k) const {
    float errors[kBlock];
    for (size_t i = 0; i < kBlock; ++i) {
      const float above = std::max(std::fabs(values_[i]) - scales_.limits[k], 0.0f);
      errors[i] = above * above * (weights_ == nullptr ? 1.0f : weights_[i]);
    }
    return sum_of_16(errors);
  }

 private:
  const float* const values_;
  const float* const weights_;
  const SweepScales& scales_;
  float losses_[kWindow];
};

struct Sweep {
  SweepScales scales;
  bool prune = false;
};

uint8_t block_scale(WeightMethod method, const Nvfp4Scales& scales, const Sweep& sweep, const float* values,
                    const float* weights) {
  const float amax = block_amax(values);
  switch (method) {
    case WeightMethod::kMax:
      return scales.dynamic_scale(amax);
    case WeightMethod::kFourOverSix: {
      const float to_six = block_loss(values, nullptr, scales.search_scale(amax));
      const float to_four = block_loss(values, nullptr, scales.search_scale(amax * 1.5f));
      return scales.static_scale(to_four < to_six ? amax * 1.5f : amax);
    }
    case WeightMethod::kMse:
      weights = nullptr;
      break;
    case WeightMethod::kWmse:
      break;
  }
  const uint8_t best = (sweep.prune ? sweep_pruned : sweep_all)(values, weights, sweep.scales);
  return scales.static_scale(scales.candidate_amax(best));
}

}  // namespace

uint8_t sweep_all(const float* values, const float* weights, const SweepScales& scales) {
  size_t best = 0;
  float least = block_loss(values, weights, scales.scales[0]);
  for (size_t k = 1; k < kMseCandidates; ++k) {
    const float loss = block_loss(values, weights, scales.scales[k]);
    if (loss < least) {
      least = loss;
      best = k;
    }
  }
  return static_cast<uint8_t>(best);
}

uint8_t sweep_pruned(const float* values, const float* weights, const SweepScales& scales) {
  PlainBlock block(values, weights, scales);
  return sweep_block(block, scales.doubles);
}

SweepScales sweep_scales(const Nvfp4Scales& scales) {
  SweepScales made;
  for (size_t k = 0; k < kMseCandidates; ++k) {
    made.scales[k] = scales.search_scale(scales.candidate_amax(k));
    made.limits[k] = 6.0f * made.scales[k];
  }
  for (size_t k = kMseCandidates; k < kSweepRow; ++k) {
    made.scales[k] = 1;
    made.limits[k] = std::numeric_limits<float>::infinity();
  }
  made.doubles = true;
  for (size_t k = 7; k + 8 < kMseCandidates; ++k)
    made.doubles = made.doubles && made.scales[k] > 0 && made.scales[k + 8] == 2 * made.scales[k];
  return made;
}

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
                                uint8_t* block_scales, RowLoss* losses, const float* channel_weights) const {
  encode_plain(values, rows, cols, codes, block_scales, losses, channel_weights, false);
}

template <class T>
void Nvfp4Quantizer::encode_plain(const T* values, size_t rows, size_t cols, uint8_t* codes,
                                  uint8_t* block_scales, RowLoss* losses, const float* channel_weights,
                                  bool prune) const {
  assert(cols % kBlock == 0 && (method_ != WeightMethod::kWmse || channel_weights != nullptr));
  const Nvfp4Scales scales(method_, amax_, scale_2_);
  const Sweep sweep{sweep_scales(scales), prune};
  const size_t blocks_in_row = cols / kBlock;
  for (size_t row = 0; row < rows; ++row) {
    double errors[kBlock] = {}, squares[kBlock] = {};
    for (size_t block = row * blocks_in_row; block < (row + 1) * blocks_in_row; ++block) {
      float x[kBlock];
      for (size_t i = 0; i < kBlock; ++i) x[i] = to_float(values[block * kBlock + i]);
      const float* const weights =
          channel_weights == nullptr ? nullptr : channel_weights + block % blocks_in_row * kBlock;
      block_scales[block] = amax_ == 0 ? encode_e4m3(1.0f) : block_scale(method_, scales, sweep, x, weights);
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

template void Nvfp4Quantizer::encode_ref(const bf16*, size_t, size_t, uint8_t*, uint8_t*, RowLoss*,
                                         const float*) const;
template void Nvfp4Quantizer::encode_ref(const float*, size_t, size_t, uint8_t*, uint8_t*, RowLoss*,
                                         const float*) const;
template void Nvfp4Quantizer::encode_plain(const bf16*, size_t, size_t, uint8_t*, uint8_t*, RowLoss*,
                                           const float*, bool) const;
template void Nvfp4Quantizer::encode_plain(const float*, size_t, size_t, uint8_t*, uint8_t*, RowLoss*,
                                           const float*, bool) const;

}  // namespace nibblecast
