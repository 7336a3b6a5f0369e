#include "formats/nvfp4_quantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/buffer.h"
#include "base/cpu_isa.h"
#include "formats/kernels.h"
#include "formats/nvfp4_scales.h"

namespace nibblecast {
namespace {

constexpr size_t kBlock = 16;
const Nvfp4Kernels* kernels() {
#if NIBBLECAST_X86_KERNELS
  switch (cpu_isa()) {
    case CpuIsa::kAvx512:
      return &kNvfp4Avx512;
    case CpuIsa::kAvx2:
      return &kNvfp4Avx2;
    case CpuIsa::kScalar:
      break;
  }
#endif
  return nullptr;
}

bool is_sweep(WeightMethod method) { return method == WeightMethod::kMse || method == WeightMethod::kWmse; }

uint32_t magnitude_bits(float amax) { return std::bit_cast<uint32_t>(amax) >> 16; }

}  // namespace

struct MseTable {
  SweepScales sweep;
  MseRows rows;
  Buffer errors;
  std::vector<uint8_t> start;
  uint8_t block_scales[kMseCandidates] = {};

  MseTable(const Nvfp4Scales& scales, float amax);

 private:
  uint8_t start_of(float magnitude) const;
};

MseTable::MseTable(const Nvfp4Scales& scales, float amax) : sweep(sweep_scales(scales)) {
  for (size_t k = 0; k < kMseCandidates; ++k) block_scales[k] = scales.static_scale(scales.candidate_amax(k));
  // The least candidate scale is above amax * 2^-21 or 0, and a quarter of it still becomes 0.
  const uint32_t last = magnitude_bits(amax), octaves = 23;
  rows.first = last / 128 < octaves ? 0 : (last / 128 - octaves) * 128;
  rows.rows = last - rows.first + 1;
  errors = Buffer(rows.rows * kSweepRow * sizeof(float));
  start.resize(rows.rows);
  auto* error = reinterpret_cast<float*>(errors.data());
  for (uint32_t row = 0; row < rows.rows; ++row) {
    const float magnitude = std::bit_cast<float>((rows.first + row) << 16);
    kernels()->error_row(magnitude, sweep.scales, error + row * kSweepRow);
    start[row] = start_of(magnitude);
  }
  rows.errors = error;
  rows.start = start.data();
}

uint8_t MseTable::start_of(float magnitude) const {
  const float* const end = sweep.limits + kMseCandidates - 1;
  return static_cast<uint8_t>(std::lower_bound(sweep.limits, end, magnitude) - sweep.limits);
}

namespace {

const Nvfp4ValueKernels<bf16>& value_kernels(const Nvfp4Kernels& kernels, bf16) { return kernels.narrow; }
const Nvfp4ValueKernels<float>& value_kernels(const Nvfp4Kernels& kernels, float) { return kernels.wide; }

void sweep(const Nvfp4Kernels& kernels, const MseTable& mse, const bf16* values, size_t blocks,
           const float* weights, uint8_t* picks) {
  kernels.sweep(values, blocks, mse.rows, mse.sweep, weights, picks);
}
void sweep(const Nvfp4Kernels& kernels, const MseTable& mse, const float* values, size_t blocks,
           const float* weights, uint8_t* picks) {
  kernels.sweep_wide(values, blocks, mse.sweep, weights, picks);
}

// Some blocks at a time, so that what is between the steps stays in the first-level cache.
template <class T>
class BlockEncoder {
 public:
  BlockEncoder(const Nvfp4Kernels& kernels, WeightMethod method, float amax, float scale_2,
               const MseTable* mse)
      : kernels_(kernels),
        kernel_(value_kernels(kernels, T{})),
        method_(method),
        mse_(mse),
        scales_(method, amax, scale_2) {
    for (int code = 0; code < 256; ++code)
      divisor_of_[code] = decode_e4m3(static_cast<uint8_t>(code)) * scale_2;
  }

  // sums: 16 of errors, then 16 of squares; or null. weights [16 * blocks]; or null.
  void encode(const T* values, size_t blocks, uint8_t* codes, uint8_t* block_scales, double* sums,
              const float* weights) {
    for (size_t begin = 0; begin < blocks; begin += kBatch) {
      const size_t count = std::min(kBatch, blocks - begin);
      const T* from = values + begin * kBlock;
      uint8_t *to = codes + begin * kBlock / 2, *scales = block_scales + begin;
      choose_scales(from, count, scales, weights == nullptr ? nullptr : weights + begin * kBlock);
      for (size_t i = 0; i < count; ++i) divisors_[i] = divisor_of_[scales[i]];
      kernel_.encode(from, divisors_, count, to);
      if (sums == nullptr) continue;
      kernels_.decode(to, scales, count, divisor_of_, decoded_);
      kernel_.add_losses(from, decoded_, count, sums, sums + kBlock);
    }
  }

 private:
  static constexpr size_t kBatch = 256;

  void choose_scales(const T* values, size_t count, uint8_t* scales, const float* weights) {
    if (mse_ != nullptr) {
      sweep(kernels_, *mse_, values, count, weights, scales);
      for (size_t i = 0; i < count; ++i) scales[i] = mse_->block_scales[scales[i]];
      return;
    }
    kernel_.block_amax(values, count, amax_);
    if (method_ == WeightMethod::kFourOverSix) choose_four_or_six(values, count);
    for (size_t i = 0; i < count; ++i) {
      scales[i] =
          method_ == WeightMethod::kMax ? scales_.dynamic_scale(amax_[i]) : scales_.static_scale(amax_[i]);
    }
  }

  void choose_four_or_six(const T* values, size_t count) {
    const auto losses = [&](float multiplier, float* result) {
      for (size_t i = 0; i < count; ++i) divisors_[i] = scales_.search_scale(amax_[i] * multiplier);
      kernel_.block_losses(values, divisors_, count, result);
    };
    losses(1.0f, to_six_);
    losses(1.5f, to_four_);
    for (size_t i = 0; i < count; ++i) amax_[i] = to_four_[i] < to_six_[i] ? amax_[i] * 1.5f : amax_[i];
  }

  const Nvfp4Kernels& kernels_;
  const Nvfp4ValueKernels<T>& kernel_;
  const WeightMethod method_;
  const MseTable* mse_;
  const Nvfp4Scales scales_;
  float divisor_of_[256];
  float amax_[kBatch], divisors_[kBatch], to_six_[kBatch], to_four_[kBatch];
  float decoded_[kBatch * kBlock];
};

RowLoss add_up(const double* sums) {
  RowLoss loss;
  for (size_t i = 0; i < kBlock; ++i) {
    loss.squared_error += sums[i];
    loss.squares += sums[kBlock + i];
  }
  return loss;
}

}  // namespace

void AmaxScan::merge(const AmaxScan& other) {
  amax = std::max(amax, other.amax);
  if (!non_finite) non_finite = other.non_finite;
}

// Magnitudes as integers are ordered as the values are.
AmaxScan scan_amax(const bf16* values, size_t count) {
  int16_t largest = 0;
  for (size_t i = 0; i < count; ++i)
    largest = std::max(largest, static_cast<int16_t>(values[i].bits & 0x7fff));
  if (largest >= 0x7f80) return scan_amax_ref(values, count);
  return {to_float(bf16{static_cast<uint16_t>(largest)}), {}};
}

AmaxScan scan_amax(const float* values, size_t count) {
  int32_t largest = 0;
  for (size_t i = 0; i < count; ++i)
    largest = std::max(largest, std::bit_cast<int32_t>(values[i]) & 0x7fffffff);
  if (largest >= 0x7f800000) return scan_amax_ref(values, count);
  return {std::bit_cast<float>(largest), {}};
}

float nvfp4_scale_2(WeightMethod method, float amax) {
  const float largest = 6.0f * (method == WeightMethod::kFourOverSix ? 256.0f : 448.0f);
  return amax == 0 ? 1.0f : amax / largest;
}

Nvfp4Quantizer::Nvfp4Quantizer(WeightMethod method, float amax)
    : method_(method), amax_(amax), scale_2_(nvfp4_scale_2(method, amax)) {
  assert(std::isfinite(amax) && amax >= 0);
  if (is_sweep(method) && amax > 0 && kernels() != nullptr)
    mse_ = std::make_unique<const MseTable>(Nvfp4Scales(method, amax, scale_2_), amax);
}

Nvfp4Quantizer::~Nvfp4Quantizer() = default;
Nvfp4Quantizer::Nvfp4Quantizer(Nvfp4Quantizer&&) noexcept = default;
Nvfp4Quantizer& Nvfp4Quantizer::operator=(Nvfp4Quantizer&&) noexcept = default;

template <class T>
void Nvfp4Quantizer::encode(const T* values, size_t rows, size_t cols, uint8_t* codes, uint8_t* block_scales,
                            RowLoss* losses, const float* channel_weights) const {
  assert(cols % kBlock == 0 && (method_ != WeightMethod::kWmse || channel_weights != nullptr));
  const Nvfp4Kernels* kernel = kernels();
  if (kernel == nullptr || amax_ == 0)
    return encode_plain(values, rows, cols, codes, block_scales, losses, channel_weights, true);
  BlockEncoder<T> encoder(*kernel, method_, amax_, scale_2_, mse_.get());
  const float* const weights = method_ == WeightMethod::kWmse ? channel_weights : nullptr;
  const size_t blocks = cols / kBlock;
  if (losses == nullptr && weights == nullptr)
    return encoder.encode(values, rows * blocks, codes, block_scales, nullptr, nullptr);
  for (size_t row = 0; row < rows; ++row) {
    double sums[2 * kBlock] = {};
    encoder.encode(values + row * cols, blocks, codes + row * cols / 2, block_scales + row * blocks,
                   losses == nullptr ? nullptr : sums, weights);
    if (losses != nullptr) losses[row] = add_up(sums);
  }
}

template void Nvfp4Quantizer::encode(const bf16*, size_t, size_t, uint8_t*, uint8_t*, RowLoss*,
                                     const float*) const;
template void Nvfp4Quantizer::encode(const float*, size_t, size_t, uint8_t*, uint8_t*, RowLoss*,
                                     const float*) const;

}  // namespace nibblecast
