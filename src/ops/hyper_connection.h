// ops/hyper_connection.h - DeepSeek-V4's manifold-constrained hyper-connections: n residual streams are mixed
// into one vector before a sub-layer, and its output is spread over them after. All in FP32.
// (DeepSeek-V4 inference/model.py hc_pre, hc_post, ParallelHead; kernel.py hc_split_sinkhorn)
#pragma once

#include <cstddef>
#include <vector>

#include "formats/bf16.h"

namespace nibblecast {

inline constexpr size_t kMaxHyperStreams = 8;
inline constexpr size_t kHyperRows = 16;  // tokens that one call of mix_streams takes

struct HyperConnection {
  size_t streams = 0, width = 0;  // n, D
  size_t sinkhorn_iterations = 0;
  float eps = 0, norm_eps = 0;
  std::vector<float> fn;     // [(2 + n) * n, n * D]
  std::vector<float> base;   // [(2 + n) * n]
  std::vector<float> scale;  // [3]: of pre, post and comb
};

// Of one token: how the sub-layer's output returns to the streams.
struct StreamMix {
  float post[kMaxHyperStreams];
  float comb[kMaxHyperStreams][kMaxHyperStreams];  // [from][to]
};

// m [(2 + n) * n], already divided by the RMS of the streams -> pre [n] and the mix. Sinkhorn: a softmax over
// each row of comb, + eps, columns normalized, then (iterations - 1) times rows and columns.
void split_mixes(const HyperConnection& connection, const float* m, float* pre, StreamMix* mix);

// tokens <= kHyperRows: x [tokens, D] = sum of pre[j] * streams[j].
template <class T>
void mix_streams(const HyperConnection& connection, const T* streams, size_t tokens, float* x,
                 StreamMix* mixes);

// x [n, D] of one token, in place: x[k] = post[k] * y + sum over j of comb[j][k] * x[j], rounded to T.
template <class T>
void spread_to_streams(const StreamMix& mix, const T* y, size_t streams, size_t width, T* x);

// Before the model's head: fn [n, n * D], base [n], scale [1]; only pre is used.
template <class T>
void merge_streams(const HyperConnection& head, const T* streams, size_t tokens, float* x);

// Bytes that one thread holds in mix_streams or merge_streams with x, beyond ops/matmul.h's.
inline size_t mix_streams_scratch_bytes(size_t streams, size_t width) {
  return kHyperRows * (streams + 1) * width * sizeof(float);
}

}  // namespace nibblecast
