// formats/nvfp4_sweep_wide.h - the Blocks of formats/nvfp4_sweep.h over wide registers, and the sweeps of
// kernels.h that they make. Not for other folders. Everything has internal linkage: files of several
// instruction sets include it.
//
// Floats, one for each instruction set: 16 floats, of a block's values or of errors under 16 scales.
//
//   static Floats load(const float*), all(float), of_bits(const uint16_t*) of bf16,
//     magnitudes(const float*); void store(float*) const
//   + - *, Floats or_zero() const: where they are negative 0
//   unsigned at_most(float) const, below(float) const: a bit for each
//   float least(), largest() const
//   float sum() const: as sum_of_16 of nvfp4_quantize_ref.cpp
//   Floats squared_errors(const Floats& magnitudes, const Floats& scales)
#pragma once

#include "formats/nvfp4_sweep.h"

namespace nibblecast {
namespace {

constexpr size_t kSweptBlock = 16;

// What blocks have alike. kWeights: whether each error has one.
template <class Floats, bool kWeights>
class Losses {
 public:
  unsigned at_most(float loss) const { return losses_.at_most(loss); }

 protected:
  Losses(const SweepScales& scales, const Floats& magnitudes, const float* weights)
      : scales_(scales), magnitudes_(magnitudes), weights_(weights) {}

  // Of the block's values in order.
  float weighted_sum(const Floats& errors) const {
    if constexpr (kWeights) return (errors * Floats::load(weights_)).sum();
    return errors.sum();
  }
  // What is lost at least under scales 0 .. k.
  float floor_of_all(size_t k) const {
    const Floats above = (magnitudes_ - Floats::all(scales_.limits[k])).or_zero();
    return weighted_sum(above * above);
  }
  // error(i): of value i under 16 scales from `first` on.
  template <class Error>
  Least least_of(size_t first, const Error& error) {
    const auto pair = [&](size_t i) { return weighted(error(i), i) + weighted(error(i + 8), i + 8); };
    losses_ = pair(0);
    for (size_t i = 1; i < 8; ++i) losses_ = losses_ + pair(i);
    const float least = losses_.least();
    return {least, first + static_cast<size_t>(__builtin_ctz(at_most(least)))};
  }

  const SweepScales& scales_;
  const Floats magnitudes_;
  const float* const weights_;

 private:
  Floats weighted(const Floats& errors, size_t i) const {
    if constexpr (kWeights) return errors * Floats::all(weights_[i]);
    return errors;
  }

  Floats losses_;
};

// Errors come from the table's rows of the values; a value without a row gets one here.
template <class Floats, bool kWeights>
class TableBlock : public Losses<Floats, kWeights> {
 public:
  TableBlock(const SweepScales& scales, const float* weights, const uint16_t* bits, uint32_t amax,
             const MseRows& table)
      : Losses<Floats, kWeights>(scales, Floats::of_bits(bits), weights),
        start_(table.start[amax - table.first]),
        amax_row_(table.errors + (amax - table.first) * kSweepRow) {
    for (size_t i = 0; i < kSweptBlock; ++i) {
      if (bits[i] >= table.first)
        rows_[i] = table.errors + (bits[i] - table.first) * kSweepRow;
      else
        add_small(i, bits[i]);
    }
  }

  size_t start() const { return start_; }
  // Unweighted, the largest value alone, where it saturates.
  float floor(size_t k) const {
    if constexpr (kWeights) return this->floor_of_all(k);
    return k < start_ ? amax_row_[k] : 0;
  }
  Least window(size_t first) {
    return this->least_of(first, [&](size_t i) { return Floats::load(rows_[i] + first); });
  }
  float loss(size_t k) const {
    alignas(64) float errors[kSweptBlock];
    for (size_t i = 0; i < kSweptBlock; ++i) errors[i] = rows_[i][k];
    return this->weighted_sum(Floats::load(errors));
  }

 private:
  void add_small(size_t i, uint16_t bits) {
    const float value = __builtin_bit_cast(float, uint32_t{bits} << 16);
    const Floats square = Floats::all(value) * Floats::all(value);
    for (size_t k = 0; k < kSweepRow; k += kSweptBlock) square.store(small_[i] + k);
    rows_[i] = small_[i];
  }

  const size_t start_;
  const float* const amax_row_;
  const float* rows_[kSweptBlock];
  alignas(64) float small_[kSweptBlock][kSweepRow];
};

template <class Floats, bool kWeights>
void sweep_rows(const bf16* values, size_t blocks, const MseRows& table, const SweepScales& scales,
                const float* weights, uint8_t* picks) {
  const auto last = static_cast<uint16_t>(table.first + table.rows - 1);
  for (size_t block = 0; block < blocks; ++block) {
    alignas(64) uint16_t magnitudes[kSweptBlock];
    uint32_t amax = 0;
    for (size_t i = 0; i < kSweptBlock; ++i) {
      const auto bits = static_cast<uint16_t>(values[kSweptBlock * block + i].bits & 0x7fff);
      magnitudes[i] = bits < last ? bits : last;
      amax = magnitudes[i] > amax ? magnitudes[i] : amax;
    }
    picks[block] = 0;
    if (amax < table.first) continue;  // 0 under every scale
    TableBlock<Floats, kWeights> found(scales, weights + kSweptBlock * block * kWeights, magnitudes, amax,
                                       table);
    picks[block] = sweep_block(found, scales.doubles);
  }
}

template <class Floats>
void sweep(const bf16* values, size_t blocks, const MseRows& table, const SweepScales& scales,
           const float* weights, uint8_t* picks) {
  (weights == nullptr ? sweep_rows<Floats, false> : sweep_rows<Floats, true>)(values, blocks, table, scales,
                                                                              weights, picks);
}

template <class Floats, bool kWeights>
class WideBlock : public Losses<Floats, kWeights> {
 public:
  WideBlock(const SweepScales& scales, const float* weights, const Floats& magnitudes)
      : Losses<Floats, kWeights>(scales, magnitudes, weights), amax_(magnitudes.largest()) {
    magnitudes.store(each_);
  }

  size_t start() const {
    size_t below = 0;
    for (size_t k = 0; k < kSweepRow; k += kSweptBlock)
      below += static_cast<size_t>(__builtin_popcount(Floats::load(this->scales_.limits + k).below(amax_)));
    return below < kSweepScales ? below : kSweepScales - 1;
  }
  Least window(size_t first) {
    const Floats scales = Floats::load(this->scales_.scales + first);
    return this->least_of(first, [&](size_t i) { return squared_errors(Floats::all(each_[i]), scales); });
  }
  float floor(size_t k) const {
    if constexpr (kWeights) return this->floor_of_all(k);
    const float above = amax_ - this->scales_.limits[k];
    return above > 0 ? above * above : 0;
  }
  float loss(size_t k) const {
    return this->weighted_sum(squared_errors(this->magnitudes_, Floats::all(this->scales_.scales[k])));
  }

 private:
  const float amax_;
  alignas(64) float each_[kSweptBlock];
};

template <class Floats, bool kWeights>
void sweep_values(const float* values, size_t blocks, const SweepScales& scales, const float* weights,
                  uint8_t* picks) {
  for (size_t block = 0; block < blocks; ++block) {
    WideBlock<Floats, kWeights> found(scales, weights + kSweptBlock * block * kWeights,
                                      Floats::magnitudes(values + kSweptBlock * block));
    picks[block] = sweep_block(found, scales.doubles);
  }
}

template <class Floats>
void sweep_wide(const float* values, size_t blocks, const SweepScales& scales, const float* weights,
                uint8_t* picks) {
  (weights == nullptr ? sweep_values<Floats, false> : sweep_values<Floats, true>)(values, blocks, scales,
                                                                                  weights, picks);
}

}  // namespace
}  // namespace nibblecast
