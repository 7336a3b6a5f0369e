// ops/delta_net.h - the gated delta net: linear attention with a state, a matrix a head, that decays and is
// corrected at every token of a row, between the projections of its input and that of its output.
//
//   conv   [q | k | v][t, c] = silu(sum_j filter[j, c] * x[t - taps + 1 + j, c]); x is 0 before the row
//   q = q / sqrt(sum q² + 1e-6) / sqrt(key_width), k = k / sqrt(sum k² + 1e-6), of each head
//   decay = exp(-exp(decay_log) * softplus(a + step_bias)), beta = sigmoid(b)
//   S = decay * S;  S += k ⊗ beta * (v - Sᵀ k);  o = Sᵀ q;  S [key_width, value_width] is 0 before the row
//   out = norm * o / sqrt(mean o² + eps) * silu(z), of each head
//
// Value head h has the q and k of key head h / group(). FP32 throughout, one rounding at the end. Tokens of a
// row are computed one after the other, so that nothing depends on how a row is cut.
// (transformers 5.23, models/qwen3_5_moe: GatedDeltaNet, torch_recurrent_gated_delta_rule, RMSNormGated)
#pragma once

#include <cstddef>
#include <span>

#include "formats/bf16.h"

namespace nibblecast {

inline constexpr float kDeltaHeadEps = 1e-6f;  // of the lengths of q and k

inline constexpr size_t kDeltaNetMostKeyWidth = 256;  // on a CUDA device

struct DeltaNetShape {
  size_t key_heads = 0, value_heads = 0;  // value_heads: a multiple of key_heads
  size_t key_width = 0, value_width = 0;  // channels of a head
  size_t taps = 0;                        // of the convolution: tokens that one sees, itself included

  size_t group() const { return value_heads / key_heads; }
  size_t keys() const { return key_heads * key_width; }
  size_t values() const { return value_heads * value_width; }
  size_t channels() const { return 2 * keys() + values(); }
  size_t history() const { return (taps - 1) * channels(); }  // elements
  size_t state() const { return value_heads * key_width * value_width; }
  bool operator==(const DeltaNetShape&) const = default;
};

struct DeltaNetVectors {
  const float* filter = nullptr;                           // [taps, channels]
  const float *decay_log = nullptr, *step_bias = nullptr;  // [value_heads]
  const float* norm = nullptr;                             // [value_width]
  float eps = 0;                                           // of the norm
};

// Of the tokens of a chunk.
struct DeltaNetInputs {
  const float* x = nullptr;                // [tokens, channels]
  const float* z = nullptr;                // [tokens, values]
  const float *a = nullptr, *b = nullptr;  // [tokens, value_heads]
};

// Tokens [begin, begin + count) of a chunk belong to one row.
struct DeltaNetRow {
  size_t begin = 0, count = 0;
  bool goes_on = false;  // it began in the chunk before
  bool ends = true;      // with this chunk
};

// What a row that is cut brings from chunk to chunk. Of a chunk at most one row goes on, and one does not
// end.
struct DeltaNetCarry {
  float* history = nullptr;  // [taps - 1, channels]: the row's last x before the chunk, 0 before the row
  float* state = nullptr;    // [value_heads, key_width, value_width]
};

// One token's channels: rows[j] is x of the token taps - 1 - j before, or null: before the row. One thread.
void convolve_token(const DeltaNetShape& shape, const float* filter, const float* const* rows, float* y);

// Tokens of a row with one value head, in order: channels [count, channels] of the convolution; state
// [key_width, value_width] is read and written; out [count, values], of which only that head is written. One
// thread.
void delta_rule(const DeltaNetShape& shape, const DeltaNetVectors& vectors, size_t value_head,
                const float* channels, const float* a, const float* b, size_t count, float* state,
                float* out);

// One token's heads: o, z [heads, width] -> y. One thread.
template <class T>
void gated_rmsnorm(const float* o, const float* z, size_t heads, size_t width, const float* weight, float eps,
                   T* y);

// The tokens of a chunk, on several threads. channels [tokens, channels] and o [tokens, values] are memory to
// work in; carry is read and written where a row is cut, else it may be empty. out [tokens, values].
template <class T>
void delta_net(const DeltaNetShape& shape, const DeltaNetVectors& vectors, const DeltaNetInputs& inputs,
               std::span<const DeltaNetRow> rows, const DeltaNetCarry& carry, float* channels, float* o,
               T* out);
// Bytes that one thread holds in it.
size_t delta_net_scratch_bytes(const DeltaNetShape& shape);

// The definition, of a whole row, in double: inputs [length, ...] -> out [length, values].
template <class T>
void delta_net_ref(const DeltaNetShape& shape, const DeltaNetVectors& vectors, const DeltaNetInputs& inputs,
                   size_t length, T* out);

}  // namespace nibblecast
