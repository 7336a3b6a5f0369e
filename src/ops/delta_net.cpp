#include "ops/delta_net.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/integers.h"
#include "base/parallel.h"
#include "ops/exp.h"
#include "ops/per_isa.h"
#include "ops/rmsnorm.h"

namespace nibblecast {
namespace {

constexpr size_t kTaskTokens = 16;

[[gnu::always_inline]] inline float silu(float x) { return x / (1.0f + exp_f32(-x)); }

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

float softplus(float x) { return x > 20.0f ? x : std::log1p(std::exp(x)); }  // above 20 they are equal

[[gnu::always_inline]] inline void add_tap_body(const float* x, const float* filter, size_t count, float* y) {
  for (size_t i = 0; i < count; ++i) y[i] += x[i] * filter[i];
}

[[gnu::always_inline]] inline void silu_body(size_t count, float* y) {
  for (size_t i = 0; i < count; ++i) y[i] = silu(y[i]);
}

[[gnu::always_inline]] inline void scale_body(const float* x, size_t count, float factor, float* y) {
  for (size_t i = 0; i < count; ++i) y[i] = x[i] * factor;
}

// A head at length 1.
void normalize_head(const float* x, size_t width, float factor, float* y) {
  const float scale = factor / std::sqrt(sum_of_squares(x, width) + kDeltaHeadEps);
  per_isa<scale_body>(x, width, scale, y);
}

// state = decay * state; found = stateᵀ key.
[[gnu::always_inline]] inline void decay_body(float* state, size_t rows, size_t cols, float decay,
                                              const float* key, float* found) {
  for (size_t j = 0; j < cols; ++j) found[j] = 0;
  for (size_t i = 0; i < rows; ++i, state += cols) {
    for (size_t j = 0; j < cols; ++j) {
      state[j] *= decay;
      found[j] += state[j] * key[i];
    }
  }
}

// state += key ⊗ change; out = stateᵀ query.
[[gnu::always_inline]] inline void correct_body(float* state, size_t rows, size_t cols, const float* key,
                                                const float* change, const float* query, float* out) {
  for (size_t j = 0; j < cols; ++j) out[j] = 0;
  for (size_t i = 0; i < rows; ++i, state += cols) {
    for (size_t j = 0; j < cols; ++j) {
      state[j] += key[i] * change[j];
      out[j] += state[j] * query[i];
    }
  }
}

template <class T>
[[gnu::always_inline]] inline void gated_norm_body(const float* o, const float* z, size_t width,
                                                   const float* weight, float factor, T* y) {
  for (size_t i = 0; i < width; ++i) y[i] = from_float<T>(o[i] * factor * weight[i] * silu(z[i]));
}

void convolve_rows(const DeltaNetShape& shape, const DeltaNetVectors& vectors, const float* x,
                   const DeltaNetRow& row, const float* history, size_t first, size_t count, float* y) {
  const size_t channels = shape.channels();
  std::vector<const float*> seen(shape.taps);
  for (size_t token = first; token < first + count; ++token) {
    for (size_t tap = 0; tap < shape.taps; ++tap) {
      const size_t back = shape.taps - 1 - tap;
      if (token >= back)
        seen[tap] = x + (row.begin + token - back) * channels;
      else
        seen[tap] = row.goes_on ? history + (shape.taps - 1 + token - back) * channels : nullptr;
    }
    convolve_token(shape, vectors.filter, seen.data(), y + (row.begin + token) * channels);
  }
}

void convolve(const DeltaNetShape& shape, const DeltaNetVectors& vectors, const float* x,
              std::span<const DeltaNetRow> rows, const DeltaNetCarry& carry, float* y) {
  struct Task {
    const DeltaNetRow* row;
    size_t first;
  };
  std::vector<Task> tasks;
  for (const DeltaNetRow& row : rows)
    for (size_t first = 0; first < row.count; first += kTaskTokens) tasks.push_back({&row, first});
  parallel_for(tasks.size(), [&](size_t task) {
    const auto& [row, first] = tasks[task];
    convolve_rows(shape, vectors, x, *row, carry.history, first, std::min(kTaskTokens, row->count - first),
                  y);
  });
}

// The last x of a row that goes on, for the next chunk.
void keep_history(const DeltaNetShape& shape, const float* x, const DeltaNetRow& row, float* history) {
  const size_t channels = shape.channels(), kept = shape.taps - 1;
  const size_t taken = std::min(kept, row.count), left = kept - taken;
  if (row.goes_on)
    std::copy(history + taken * channels, history + kept * channels, history);
  else
    std::fill_n(history, left * channels, 0.0f);
  std::copy_n(x + (row.begin + row.count - taken) * channels, taken * channels, history + left * channels);
}

void run_rule(const DeltaNetShape& shape, const DeltaNetVectors& vectors, const DeltaNetInputs& inputs,
              const DeltaNetRow& row, size_t head, const DeltaNetCarry& carry, const float* channels,
              float* o) {
  const size_t size = shape.key_width * shape.value_width;
  std::vector<float> state(size);
  if (row.goes_on) std::copy_n(carry.state + head * size, size, state.data());
  delta_rule(shape, vectors, head, channels + row.begin * shape.channels(),
             inputs.a + row.begin * shape.value_heads, inputs.b + row.begin * shape.value_heads, row.count,
             state.data(), o + row.begin * shape.values());
  if (!row.ends) std::copy_n(state.data(), size, carry.state + head * size);
}

}  // namespace

void convolve_token(const DeltaNetShape& shape, const float* filter, const float* const* rows, float* y) {
  const size_t channels = shape.channels();
  std::fill_n(y, channels, 0.0f);
  for (size_t tap = 0; tap < shape.taps; ++tap)
    if (rows[tap] != nullptr) per_isa<add_tap_body>(rows[tap], filter + tap * channels, channels, y);
  per_isa<silu_body>(channels, y);
}

void delta_rule(const DeltaNetShape& shape, const DeltaNetVectors& vectors, size_t value_head,
                const float* channels, const float* a, const float* b, size_t count, float* state,
                float* out) {
  const size_t rows = shape.key_width, cols = shape.value_width, key_head = value_head / shape.group();
  const float rate = std::exp(vectors.decay_log[value_head]), bias = vectors.step_bias[value_head];
  const float query_scale = 1.0f / std::sqrt(static_cast<float>(rows));
  std::vector<float> query(rows), key(rows), change(cols);
  for (size_t token = 0; token < count; ++token) {
    const float* const own = channels + token * shape.channels();
    const float* const value = own + 2 * shape.keys() + value_head * cols;
    normalize_head(own + key_head * rows, rows, query_scale, query.data());
    normalize_head(own + shape.keys() + key_head * rows, rows, 1, key.data());
    const size_t gate = token * shape.value_heads + value_head;
    const float decay = std::exp(-rate * softplus(a[gate] + bias)), beta = sigmoid(b[gate]);
    per_isa<decay_body>(state, rows, cols, decay, static_cast<const float*>(key.data()), change.data());
    for (size_t j = 0; j < cols; ++j) change[j] = (value[j] - change[j]) * beta;
    per_isa<correct_body>(state, rows, cols, static_cast<const float*>(key.data()),
                          static_cast<const float*>(change.data()), static_cast<const float*>(query.data()),
                          out + token * shape.values() + value_head * cols);
  }
}

template <class T>
void gated_rmsnorm(const float* o, const float* z, size_t heads, size_t width, const float* weight, float eps,
                   T* y) {
  for (size_t head = 0; head < heads; ++head, o += width, z += width, y += width) {
    const float factor = 1.0f / std::sqrt(sum_of_squares(o, width) / static_cast<float>(width) + eps);
    per_isa<gated_norm_body<T>>(o, z, width, weight, factor, y);
  }
}

template <class T>
void delta_net(const DeltaNetShape& shape, const DeltaNetVectors& vectors, const DeltaNetInputs& inputs,
               std::span<const DeltaNetRow> rows, const DeltaNetCarry& carry, float* channels, float* o,
               T* out) {
  convolve(shape, vectors, inputs.x, rows, carry, channels);
  size_t tokens = 0;
  for (const DeltaNetRow& row : rows) {
    if (!row.ends) keep_history(shape, inputs.x, row, carry.history);
    tokens = std::max(tokens, row.begin + row.count);
  }
  parallel_for(rows.size() * shape.value_heads, [&](size_t task) {
    run_rule(shape, vectors, inputs, rows[task / shape.value_heads], task % shape.value_heads, carry,
             channels, o);
  });
  parallel_for(ceil_div(tokens, kTaskTokens), [&](size_t task) {
    const size_t end = std::min(tokens, (task + 1) * kTaskTokens);
    for (size_t token = task * kTaskTokens; token < end; ++token) {
      const size_t at = token * shape.values();
      gated_rmsnorm(o + at, inputs.z + at, shape.value_heads, shape.value_width, vectors.norm, vectors.eps,
                    out + at);
    }
  });
}

size_t delta_net_scratch_bytes(const DeltaNetShape& shape) {
  return (shape.key_width * (shape.value_width + 2) + shape.value_width) * sizeof(float) +
         shape.taps * sizeof(void*);
}

template void gated_rmsnorm(const float*, const float*, size_t, size_t, const float*, float, float*);
template void gated_rmsnorm(const float*, const float*, size_t, size_t, const float*, float, bf16*);
template void delta_net(const DeltaNetShape&, const DeltaNetVectors&, const DeltaNetInputs&,
                        std::span<const DeltaNetRow>, const DeltaNetCarry&, float*, float*, float*);
template void delta_net(const DeltaNetShape&, const DeltaNetVectors&, const DeltaNetInputs&,
                        std::span<const DeltaNetRow>, const DeltaNetCarry&, float*, float*, bf16*);

}  // namespace nibblecast
