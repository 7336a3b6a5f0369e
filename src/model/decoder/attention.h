// model/decoder/attention.h - the first half of a layer: x += o(attention(q, k, v of norm(x))). The steps in
// their order; D computes them (model/decoder/cpu_ops.h).
#pragma once

#include <algorithm>

#include "model/decoder/findings.h"
#include "model/decoder/weights.h"
#include "model/token_rows.h"
#include "ops/gqa.h"
#include "ops/heads.h"

namespace nibblecast {

template <class D>
class AttentionBlock {
 public:
  using T = typename D::Element;

  AttentionBlock(D& device, const DecoderSpec& spec, const GqaSpec& gqa, const GqaWeights<D>& weights)
      : device_(device),
        norm_(spec.norm),
        hidden_(spec.hidden),
        gqa_(gqa),
        shape_{.heads = gqa.heads,
               .kv_heads = gqa.kv_heads,
               .key_width = gqa.width,
               .value_width = gqa.width,
               .scale = gqa.scale,
               .window = gqa.window},
        weights_(weights) {}

  // A longer row than a chunk goes through in chunks of its own, in order: a chunk's queries see its keys and
  // those of the chunks before.
  void run(const RowGroup& group) {
    const size_t most = D::kSizes.chunk_tokens, step = D::query_step(shape_);
    const size_t chunk = group.tokens <= most ? group.tokens : most / step * step;
    for (size_t begin = 0; begin < group.tokens; begin += chunk) {
      run_chunk(group, begin, std::min(chunk, group.tokens - begin));
      device_.report(group.begin + begin + chunk);
    }
  }

 private:
  // Tokens [begin, begin + count) of the group.
  void run_chunk(const RowGroup& group, size_t begin, size_t count) {
    const auto& buffers = device_.work().attention;
    const size_t first = group.begin + begin, keys = gqa_.kv_heads * gqa_.width;
    T* const k = buffers.k + begin * keys;
    T* const v = buffers.v + begin * keys;
    T* const x = device_.load(first, count);
    device_.norm(x, count, hidden_, weights_.norm, norm_, buffers.in,
                 device_.seen(LayerFinding::kAttentionIn));
    project(weights_.q, weights_.q_norm, gqa_.heads, first, count, buffers.q);
    project(weights_.k, weights_.k_norm, gqa_.kv_heads, first, count, k);
    device_.see(k, count, keys, device_.seen(LayerFinding::kKeys));
    device_.product(buffers.in, count, weights_.v, buffers.sums);
    device_.turn_heads(buffers.sums, count, gqa_.kv_heads, gqa_.width, nullptr, nullptr, first, v);
    device_.see(v, count, keys, device_.seen(LayerFinding::kValues));
    device_.attend(shape_, group, begin, count, buffers.q, buffers.k, buffers.v, weights_.sinks, buffers.out,
                   device_.seen(LayerFinding::kAttentionOut));
    device_.product(buffers.out, count, weights_.o, buffers.sums);
    device_.show(LayerPart::kMixer, first, count, buffers.sums);
    device_.add(buffers.sums, count, hidden_, x, device_.seen(LayerFinding::kAttentionStream));
    device_.store(first, count, x);
  }

  // Heads of queries or keys: projected, normed, turned.
  void project(const Linear<D>& linear, const float* norm, size_t heads, size_t first, size_t count, T* y) {
    const auto& buffers = device_.work().attention;
    const size_t width = gqa_.width;
    const RopeSpec* const rope = gqa_.rope.dims == 0 ? nullptr : &gqa_.rope;
    device_.product(buffers.in, count, linear, buffers.sums);
    if (gqa_.head_norms == HeadNorms::kAll) {
      device_.norm(buffers.sums, count, heads * width, norm, norm_, y, nullptr);
      device_.turn_heads(y, count, heads, width, nullptr, rope, first, y);
      return;
    }
    const HeadNorm head_norm{.weight = norm, .use = norm_.use, .eps = norm_.eps};
    const bool normed = gqa_.head_norms == HeadNorms::kPerHead;
    device_.turn_heads(buffers.sums, count, heads, width, normed ? &head_norm : nullptr, rope, first, y);
  }

  D& device_;
  const NormSpec norm_;
  const size_t hidden_;
  const GqaSpec& gqa_;
  const GqaShape shape_;
  const GqaWeights<D>& weights_;
};

}  // namespace nibblecast
