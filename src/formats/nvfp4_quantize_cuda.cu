#include <cuda_runtime.h>

#include <algorithm>
#include <cassert>

#include "formats/codes.cuh"
#include "formats/nvfp4_quantize_cuda.h"
#include "formats/nvfp4_scales.h"

namespace nibblecast {
namespace {

constexpr unsigned kBlock = 16;
constexpr unsigned kThreads = 128;
constexpr unsigned kMaxGrid = 4096;  // more than any device runs at once; threads take several turns

unsigned grid_of(size_t threads) {
  return static_cast<unsigned>(std::min<size_t>((threads + kThreads - 1) / kThreads, kMaxGrid));
}
__device__ size_t first_turn() { return size_t{blockIdx.x} * kThreads + threadIdx.x; }
__device__ size_t turns_apart() { return size_t{gridDim.x} * kThreads; }

__device__ float infinity() { return __uint_as_float(0x7f800000); }

// What a scan has seen, magnitudes as the bits of floats.
struct Seen {
  uint32_t largest = 0;
  unsigned long long non_finite = kAllFinite;

  __device__ void add(uint32_t bits, unsigned long long index) {
    const uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude < 0x7f800000)
      largest = max(largest, magnitude);
    else
      non_finite = min(non_finite, index);
  }
};

// Four words: eight numbers of BF16, or four floats.
__device__ void add_words(const bf16*, const uint4& words, unsigned long long index, Seen& seen) {
  const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
  for (unsigned i = 0; i < 4; ++i) {
    seen.add(pairs[i] << 16, index + 2 * i);
    seen.add(pairs[i] & 0xffff0000u, index + 2 * i + 1);
  }
}
__device__ void add_words(const float*, const uint4& words, unsigned long long index, Seen& seen) {
  const uint32_t floats[4] = {words.x, words.y, words.z, words.w};
  for (unsigned i = 0; i < 4; ++i) seen.add(floats[i], index + i);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    scan(const T* __restrict__ values, size_t count, size_t first_index, float* amax,
         unsigned long long* non_finite) {
  constexpr size_t kPack = sizeof(uint4) / sizeof(T);
  __shared__ uint32_t block_largest;
  if (threadIdx.x == 0) block_largest = 0;
  __syncthreads();
  Seen seen;
  for (size_t pack = first_turn(); pack < count / kPack; pack += turns_apart())
    add_words(values, reinterpret_cast<const uint4*>(values)[pack], first_index + pack * kPack, seen);
  const size_t rest = count / kPack * kPack + first_turn();
  if (rest < count) seen.add(__float_as_uint(to_float(values[rest])), first_index + rest);
  if (seen.non_finite != kAllFinite) atomicMin(non_finite, seen.non_finite);
  const uint32_t warp_largest = __reduce_max_sync(0xffffffffu, seen.largest);
  if (threadIdx.x % warpSize == 0) atomicMax(&block_largest, warp_largest);
  __syncthreads();
  // Magnitudes as integers are ordered as the values are.
  if (threadIdx.x == 0) atomicMax(reinterpret_cast<uint32_t*>(amax), block_largest);
}

// Nvfp4Scales of nvfp4_scales.h, step by step.
class Scales {
 public:
  __device__ Scales(WeightMethod method, float amax)
      : amax_(amax),
        fp8_max_(method == WeightMethod::kFourOverSix ? 256.0f : 448.0f),
        scale_2_(amax == 0 ? 1.0f : amax / (6.0f * fp8_max_)),
        dynamic_divisor_(6.0f * scale_2_),
        static_divisor_(amax / 6.0f) {
    const float e4m3_amax = amax * (448.0f / fp8_max_) / 6.0f;
    const float safe_amax = e4m3_amax <= 0x1p-24f ? 1.0f : e4m3_amax;
    to_e4m3_ = (1.0f / safe_amax) * 448.0f;
    from_e4m3_ = 1.0f / to_e4m3_;
  }

  __device__ float amax() const { return amax_; }
  __device__ float scale_2() const { return scale_2_; }

  __device__ uint8_t dynamic_scale(float block_amax) const {
    const float scale = block_amax / dynamic_divisor_;
    return e4m3_code(clamped(scale == 0 ? 1.0f : scale));
  }
  __device__ uint8_t static_scale(float block_amax) const {
    const float scale = block_amax / 6.0f;
    return e4m3_code(clamped((scale == 0 ? 1.0f : scale) * fp8_max_ / static_divisor_));
  }
  __device__ float search_scale(float block_amax) const {
    const float scale = block_amax / 6.0f * to_e4m3_;
    const float result = e4m3_value(e4m3_code(scale > 448.0f ? 448.0f : scale)) * from_e4m3_;
    return fabsf(result) < infinity() ? result : 1.0f;
  }
  __device__ float candidate_amax(unsigned k) const { return amax_ * (e4m3_value(k + 1) / 448.0f); }

 private:
  // A NaN stays.
  __device__ static float clamped(float scale) {
    return scale < 0x1p-9f ? 0x1p-9f : scale > 448.0f ? 448.0f : scale;
  }

  float amax_, fp8_max_, scale_2_, dynamic_divisor_, static_divisor_;
  float to_e4m3_, from_e4m3_;
};

// The 16 values of a block, or their magnitudes.
struct Block {
  float x[kBlock];

  __device__ static Block load(const bf16* values, size_t block) {
    const auto* from = reinterpret_cast<const uint4*>(values + block * kBlock);
    const uint4 low = from[0], high = from[1];
    const uint32_t pairs[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    Block loaded;
    for (unsigned i = 0; i < kBlock / 2; ++i) {
      loaded.x[2 * i] = __uint_as_float(pairs[i] << 16);
      loaded.x[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
    }
    return loaded;
  }
  __device__ static Block load(const float* values, size_t block) {
    const auto* from = reinterpret_cast<const float4*>(values + block * kBlock);
    Block loaded;
    for (unsigned i = 0; i < kBlock / 4; ++i) {
      const float4 four = from[i];
      loaded.x[4 * i] = four.x, loaded.x[4 * i + 1] = four.y;
      loaded.x[4 * i + 2] = four.z, loaded.x[4 * i + 3] = four.w;
    }
    return loaded;
  }
  __device__ Block magnitudes() const {
    Block result;
    for (unsigned i = 0; i < kBlock; ++i) result.x[i] = fabsf(x[i]);
    return result;
  }
  __device__ float amax() const {
    float result = 0;
    for (const float value : x) result = fmaxf(result, fabsf(value));
    return result;
  }
};

// Of a magnitude that lies `quotient` scales from 0. With scale 0 the quotient is infinite or NaN, its E2M1
// number 6, and the error the whole magnitude, as it must be.
__device__ float squared_error(float magnitude, float quotient, float scale) {
  const float error = magnitude - round_e2m1(quotient).value * scale;
  return error * error;
}

// sum_of_16 of the squared errors, with quotient(x) for x / scale. Once it is above `limit`, any number
// above: adding what is not negative never makes a float less.
template <class Quotient>
__device__ float block_loss(const Block& magnitudes, float scale, float limit, const Quotient& quotient) {
  const auto error = [&](unsigned i) {
    return squared_error(magnitudes.x[i], quotient(magnitudes.x[i]), scale);
  };
  float sum = error(0) + error(8);
#pragma unroll
  for (unsigned i = 1; i < 8; ++i) {
    sum += error(i) + error(8 + i);
    if (i % 2 == 1 && sum > limit) return sum;
  }
  return sum;
}

__device__ float divided_loss(const Block& magnitudes, float scale) {
  return block_loss(magnitudes, scale, infinity(), [&](float x) { return x / scale; });
}

// What kMse chooses from, ascending.
struct Candidates {
  float scales[kMseCandidates], reciprocals[kMseCandidates];
  uint8_t block_scales[kMseCandidates];

  __device__ void fill(const Scales& from) {
    for (unsigned k = threadIdx.x; k < kMseCandidates; k += kThreads) {
      scales[k] = from.search_scale(from.candidate_amax(k));
      reciprocals[k] = 1.0f / scales[k];
      block_scales[k] = from.static_scale(from.candidate_amax(k));
    }
  }
};

// x / scale, rounded to nearest. kByReciprocal: in three steps, which give just that for every BF16 x and
// float scale whose mantissas are taken alone (all 2^30 pairs were tried). So they do for quotients that
// matter, from 0.2 on, while nothing leaves the range of floats: scales of a group are 0 or above 2^-43,
// because a `from_e4m3` is, and at most a sixth of the amax.
template <bool kByReciprocal>
__device__ float divide(float x, float scale, float reciprocal) {
  if constexpr (!kByReciprocal) return x / scale;
  const float guess = x * reciprocal;
  return __fmaf_rn(__fmaf_rn(-guess, scale, x), reciprocal, guess);
}
constexpr float kMaxByReciprocal = 0x1p60f;

// The candidate of least loss, the first of equals. The search begins where the block's amax becomes about 6
// and goes down, then up, until it is certain that no other can win.
template <bool kByReciprocal>
class MseSearch {
 public:
  __device__ MseSearch(const Block& magnitudes, const Candidates& candidates)
      : magnitudes_(magnitudes), candidates_(candidates), amax_(magnitudes.amax()) {}

  __device__ unsigned best(float group_amax) {
    const unsigned code = e4m3_code(fminf(amax_ / group_amax * 448.0f, 448.0f));
    const unsigned start = min(max(code, 1u) - 1, static_cast<unsigned>(kMseCandidates) - 1);
    for (unsigned k = start + 1; k-- > 0;) {
      consider(k);
      if (is_worse_from_here_down(k)) break;
    }
    for (unsigned k = start + 1; k < kMseCandidates; ++k) {
      consider(k);
      if (is_same_from_here_up(k)) break;
    }
    return best_;
  }

 private:
  __device__ float quotient(float x, unsigned k) const {
    return divide<kByReciprocal>(x, candidates_.scales[k], candidates_.reciprocals[k]);
  }

  __device__ void consider(unsigned k) {
    const float scale = candidates_.scales[k], reciprocal = candidates_.reciprocals[k];
    const float loss = block_loss(magnitudes_, scale, least_,
                                  [&](float x) { return divide<kByReciprocal>(x, scale, reciprocal); });
    if (loss < least_ || (loss == least_ && k < best_)) {
      least_ = loss;
      best_ = k;
    }
  }

  // The amax saturates, here and under smaller scales, with an error that alone is above the least loss.
  __device__ bool is_worse_from_here_down(unsigned k) const {
    const float error = amax_ - 6.0f * candidates_.scales[k];
    return error >= 0 && error * error > least_;
  }

  // All values become 0, here and under larger scales.
  __device__ bool is_same_from_here_up(unsigned k) const { return quotient(amax_, k) <= 0.25f; }

  const Block& magnitudes_;
  const Candidates& candidates_;
  const float amax_;
  float least_ = infinity();
  unsigned best_ = kMseCandidates;
};

// The E4M3 byte of a block's scale. kNarrow: the values are BF16's.
template <WeightMethod kMethod, bool kNarrow>
__device__ uint8_t choose_scale(const Scales& scales, const Candidates& candidates, const Block& block) {
  const Block magnitudes = block.magnitudes();
  const float amax = magnitudes.amax();
  if constexpr (kMethod == WeightMethod::kMax) {
    return scales.dynamic_scale(amax);
  } else if constexpr (kMethod == WeightMethod::kFourOverSix) {
    const float to_six = divided_loss(magnitudes, scales.search_scale(amax));
    const float to_four = divided_loss(magnitudes, scales.search_scale(amax * 1.5f));
    return scales.static_scale(to_four < to_six ? amax * 1.5f : amax);
  } else {
    const unsigned best = kNarrow && scales.amax() <= kMaxByReciprocal
                              ? MseSearch<true>(magnitudes, candidates).best(scales.amax())
                              : MseSearch<false>(magnitudes, candidates).best(scales.amax());
    return candidates.block_scales[best];
  }
}

// Two codes a byte, the first in the low nibble.
__device__ uint2 codes_of(const Block& block, float divisor) {
  uint32_t words[2] = {};
  for (unsigned i = 0; i < kBlock; ++i) {
    const float scaled = block.x[i] / divisor;
    const uint32_t code = round_e2m1(fabsf(scaled)).code | (scaled < 0 ? 8 : 0);
    words[i / 8] |= code << 4 * (i % 8);
  }
  return {words[0], words[1]};
}

template <WeightMethod kMethod, class T>
__global__ void __launch_bounds__(kThreads)
    encode(const float* amax, const T* __restrict__ values, size_t blocks, uint8_t* __restrict__ codes,
           uint8_t* __restrict__ block_scales) {
  const Scales scales(kMethod, *amax);
  __shared__ Candidates candidates;
  if constexpr (kMethod == WeightMethod::kMse) {
    candidates.fill(scales);
    __syncthreads();
  }
  for (size_t i = first_turn(); i < blocks; i += turns_apart()) {
    const Block block = Block::load(values, i);
    const uint8_t scale = scales.amax() == 0
                              ? e4m3_code(1.0f)
                              : choose_scale<kMethod, sizeof(T) == 2>(scales, candidates, block);
    block_scales[i] = scale;
    reinterpret_cast<uint2*>(codes)[i] = codes_of(block, e4m3_value(scale) * scales.scale_2());
  }
}

// 16 threads a row, one for each partial sum of RowLoss.
template <class T>
__global__ void __launch_bounds__(kThreads)
    row_losses(WeightMethod method, const float* amax, const T* __restrict__ values, size_t rows,
               size_t blocks_in_row, const uint8_t* __restrict__ codes,
               const uint8_t* __restrict__ block_scales, RowLoss* __restrict__ losses) {
  const size_t row = first_turn() / kBlock;
  const unsigned lane = threadIdx.x % kBlock;
  const float scale_2 = Scales(method, *amax).scale_2();
  double error_sum = 0, square_sum = 0;
  const size_t begin = min(row, rows) * blocks_in_row, end = min(row + 1, rows) * blocks_in_row;
#pragma unroll 8
  for (size_t block = begin; block < end; ++block) {
    const float x = to_float(values[block * kBlock + lane]);
    const uint32_t code = uint32_t{codes[(block * kBlock + lane) / 2]} >> lane % 2 * 4;
    const float y = e2m1_value(code) * (e4m3_value(block_scales[block]) * scale_2);
    const double error = double{x} - double{y};
    error_sum += error * error;
    square_sum += double{x} * double{x};
  }
  RowLoss loss;
  for (unsigned i = 0; i < kBlock; ++i) {
    loss.squared_error += __shfl_sync(0xffffffffu, error_sum, i, kBlock);
    loss.squares += __shfl_sync(0xffffffffu, square_sum, i, kBlock);
  }
  if (lane == 0 && row < rows) losses[row] = loss;
}

template <WeightMethod kMethod, class T>
void launch_encode(CudaStreamHandle stream, const float* amax, const T* values, size_t blocks, uint8_t* codes,
                   uint8_t* block_scales) {
  encode<kMethod, T><<<grid_of(blocks), kThreads, 0, stream>>>(amax, values, blocks, codes, block_scales);
  check_cuda_launch("encode");
}

}  // namespace

template <class T>
void scan_amax_cuda(CudaStreamHandle stream, const T* values, size_t count, size_t first_index, float* amax,
                    uint64_t* non_finite) {
  if (count == 0) return;
  constexpr size_t kPack = sizeof(uint4) / sizeof(T);
  scan<<<grid_of((count + kPack - 1) / kPack), kThreads, 0, stream>>>(
      values, count, first_index, amax, reinterpret_cast<unsigned long long*>(non_finite));
  check_cuda_launch("scan");
}

template <class T>
void encode_nvfp4_cuda(CudaStreamHandle stream, WeightMethod method, const float* amax, const T* values,
                       size_t rows, size_t cols, uint8_t* codes, uint8_t* block_scales, RowLoss* losses) {
  assert(cols % kBlock == 0 && method != WeightMethod::kWmse);
  const size_t blocks = rows * (cols / kBlock);
  if (blocks > 0) {
    const auto launch = method == WeightMethod::kMax   ? launch_encode<WeightMethod::kMax, T>
                        : method == WeightMethod::kMse ? launch_encode<WeightMethod::kMse, T>
                                                       : launch_encode<WeightMethod::kFourOverSix, T>;
    launch(stream, amax, values, blocks, codes, block_scales);
  }
  if (losses == nullptr || rows == 0) return;
  const auto grid = static_cast<unsigned>((rows * kBlock + kThreads - 1) / kThreads);
  row_losses<<<grid, kThreads, 0, stream>>>(method, amax, values, rows, cols / kBlock, codes, block_scales,
                                            losses);
  check_cuda_launch("row_losses");
}

template void scan_amax_cuda(CudaStreamHandle, const bf16*, size_t, size_t, float*, uint64_t*);
template void scan_amax_cuda(CudaStreamHandle, const float*, size_t, size_t, float*, uint64_t*);
template void encode_nvfp4_cuda(CudaStreamHandle, WeightMethod, const float*, const bf16*, size_t, size_t,
                                uint8_t*, uint8_t*, RowLoss*);
template void encode_nvfp4_cuda(CudaStreamHandle, WeightMethod, const float*, const float*, size_t, size_t,
                                uint8_t*, uint8_t*, RowLoss*);

}  // namespace nibblecast
