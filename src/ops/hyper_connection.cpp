#include "ops/hyper_connection.h"

#include <algorithm>
#include <cmath>

#include "ops/matmul.h"
#include "ops/per_isa.h"
#include "ops/rmsnorm.h"
#include "ops/round.h"

namespace nibblecast {
namespace {

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

void normalize_rows(StreamMix* mix, size_t n, float eps) {
  for (size_t row = 0; row < n; ++row) {
    float sum = 0;
    for (size_t col = 0; col < n; ++col) sum += mix->comb[row][col];
    for (size_t col = 0; col < n; ++col) mix->comb[row][col] /= sum + eps;
  }
}

void normalize_columns(StreamMix* mix, size_t n, float eps) {
  for (size_t col = 0; col < n; ++col) {
    float sum = 0;
    for (size_t row = 0; row < n; ++row) sum += mix->comb[row][col];
    for (size_t row = 0; row < n; ++row) mix->comb[row][col] /= sum + eps;
  }
}

void softmax_rows(StreamMix* mix, size_t n, float eps) {
  for (size_t row = 0; row < n; ++row) {
    float* values = mix->comb[row];
    const float largest = *std::max_element(values, values + n);
    float sum = 0;
    for (size_t col = 0; col < n; ++col) sum += values[col] = std::exp(values[col] - largest);
    for (size_t col = 0; col < n; ++col) values[col] = values[col] / sum + eps;
  }
}

// m [tokens, outputs] = (fn · z) / rms(z), z the token's streams as one vector.
template <class T>
void project(const HyperConnection& connection, const T* streams, size_t tokens, size_t outputs, float* m) {
  const size_t k = connection.streams * connection.width;
  thread_local std::vector<float> z;
  z.resize(tokens * k);
  widen(streams, tokens * k, z.data());
  matmul_tile({.m = tokens, .n = outputs, .k = k}, z.data(), k, connection.fn.data(), k, m);
  for (size_t token = 0; token < tokens; ++token) {
    const float mean = sum_of_squares(z.data() + token * k, k) / static_cast<float>(k);
    const float factor = 1.0f / std::sqrt(mean + connection.norm_eps);
    for (size_t i = 0; i < outputs; ++i) m[token * outputs + i] *= factor;
  }
}

template <class T>
[[gnu::always_inline]] inline void weighted_sum(const T* streams, const float* pre, size_t n, size_t width,
                                                float* x) {
  for (size_t i = 0; i < width; ++i) x[i] = pre[0] * to_float(streams[i]);
  for (size_t j = 1; j < n; ++j) {
    for (size_t i = 0; i < width; ++i) x[i] += pre[j] * to_float(streams[j * width + i]);
  }
}

template <class T>
[[gnu::always_inline]] inline void spread_body(const StreamMix* mix, const T* y, size_t streams, size_t width,
                                               T* x) {
  constexpr size_t kStep = 64;  // a piece of every stream stays in registers and L1
  for (size_t begin = 0; begin < width; begin += kStep) {
    const size_t count = width - begin < kStep ? width - begin : kStep;
    float before[kMaxHyperStreams][kStep], out[kStep], sum[kStep];
    for (size_t i = 0; i < count; ++i) out[i] = to_float(y[begin + i]);
    for (size_t j = 0; j < streams; ++j) {
      for (size_t i = 0; i < count; ++i) before[j][i] = to_float(x[j * width + begin + i]);
    }
    for (size_t k = 0; k < streams; ++k) {
      for (size_t i = 0; i < count; ++i) sum[i] = mix->post[k] * out[i];
      for (size_t j = 0; j < streams; ++j) {
        for (size_t i = 0; i < count; ++i) sum[i] += mix->comb[j][k] * before[j][i];
      }
      for (size_t i = 0; i < count; ++i) x[k * width + begin + i] = from_float<T>(sum[i]);
    }
  }
}

}  // namespace

void split_mixes(const HyperConnection& connection, const float* m, float* pre, StreamMix* mix) {
  const size_t n = connection.streams;
  const std::vector<float>& scale = connection.scale;
  const float* base = connection.base.data();
  for (size_t j = 0; j < n; ++j) {
    pre[j] = sigmoid(m[j] * scale[0] + base[j]) + connection.eps;
    mix->post[j] = 2.0f * sigmoid(m[n + j] * scale[1] + base[n + j]);
    for (size_t k = 0; k < n; ++k) {
      const size_t i = 2 * n + n * j + k;
      mix->comb[j][k] = m[i] * scale[2] + base[i];
    }
  }
  softmax_rows(mix, n, connection.eps);
  normalize_columns(mix, n, connection.eps);
  for (size_t step = 1; step < connection.sinkhorn_iterations; ++step) {
    normalize_rows(mix, n, connection.eps);
    normalize_columns(mix, n, connection.eps);
  }
}

template <class T>
void mix_streams(const HyperConnection& connection, const T* streams, size_t tokens, float* x,
                 StreamMix* mixes) {
  const size_t n = connection.streams, width = connection.width, outputs = (2 + n) * n;
  float m[kHyperRows * (2 + kMaxHyperStreams) * kMaxHyperStreams];
  project(connection, streams, tokens, outputs, m);
  for (size_t token = 0; token < tokens; ++token) {
    float pre[kMaxHyperStreams];
    split_mixes(connection, m + token * outputs, pre, mixes + token);
    per_isa<weighted_sum<T>>(streams + token * n * width, pre, n, width, x + token * width);
  }
}

template <class T>
void spread_to_streams(const StreamMix& mix, const T* y, size_t streams, size_t width, T* x) {
  per_isa<spread_body<T>>(&mix, y, streams, width, x);
}

template <class T>
void merge_streams(const HyperConnection& head, const T* streams, size_t tokens, float* x) {
  const size_t n = head.streams, width = head.width;
  float m[kHyperRows * kMaxHyperStreams];
  project(head, streams, tokens, n, m);
  for (size_t token = 0; token < tokens; ++token) {
    float pre[kMaxHyperStreams];
    for (size_t j = 0; j < n; ++j)
      pre[j] = sigmoid(m[token * n + j] * head.scale[0] + head.base[j]) + head.eps;
    per_isa<weighted_sum<T>>(streams + token * n * width, pre, n, width, x + token * width);
  }
}

template void mix_streams(const HyperConnection&, const float*, size_t, float*, StreamMix*);
template void mix_streams(const HyperConnection&, const bf16*, size_t, float*, StreamMix*);
template void spread_to_streams(const StreamMix&, const float*, size_t, size_t, float*);
template void spread_to_streams(const StreamMix&, const bf16*, size_t, size_t, bf16*);
template void merge_streams(const HyperConnection&, const float*, size_t, float*);
template void merge_streams(const HyperConnection&, const bf16*, size_t, float*);

}  // namespace nibblecast
