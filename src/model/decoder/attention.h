// model/decoder/attention.h - the first half of a layer with attention: x += o(attention(q, k, v of
// norm(x))). The steps in their order; D computes them (model/decoder/cpu_ops.h).
#pragma once

#include <algorithm>

#include "model/decoder/findings.h"
#include "model/decoder/weights.h"
#include "model/token_rows.h"
#include "ops/gates.h"
#include "ops/gqa.h"
#include "ops/heads.h"

namespace nibblecast {

// Attention by softmax, whatever makes its queries, keys and values. Projections has:
//   void run(first, count, k, v)  of tokens [first, first + count), whose normed inputs are there: their
//                                 queries to the buffer's q, their keys and values to k and v
//   bool gates_output()           whether it also fills the buffer's gates, one for each of the output
template <class D, class Projections>
class AttentionBlock {
 public:
  using T = typename D::Element;

  AttentionBlock(D& device, const DecoderSpec& spec, const GqaShape& shape, const float* norm,
                 const float* sinks, const Linear<D>& o, Projections projections)
      : device_(device),
        norm_spec_(spec.norm),
        hidden_(spec.hidden),
        shape_(shape),
        norm_(norm),
        sinks_(sinks),
        o_(o),
        projections_(std::move(projections)) {}

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
    const size_t first = group.begin + begin, keys = shape_.kv_heads * shape_.key_width,
                 values = shape_.kv_heads * shape_.value_width;
    T* const k = buffers.k + begin * keys;
    T* const v = buffers.v + begin * values;
    T* const x = device_.load(first, count);
    const auto seen = device_.seen(LayerFinding::kAttentionOut);
    device_.norm(x, count, hidden_, norm_, norm_spec_, buffers.in, device_.seen(LayerFinding::kAttentionIn));
    device_.add_moments(LayerFinding::kAttentionIn, buffers.in, count, hidden_);
    projections_.run(first, count, k, v);
    device_.see(k, count, keys, device_.seen(LayerFinding::kKeys));
    device_.see(v, count, values, device_.seen(LayerFinding::kValues));
    device_.attend(shape_, group, begin, count, buffers.q, buffers.k, buffers.v, sinks_, buffers.out,
                   projections_.gates_output() ? nullptr : seen);
    if (projections_.gates_output())
      device_.gate_elements(buffers.gates, count, shape_.heads * shape_.value_width, buffers.out, seen);
    device_.add_moments(LayerFinding::kAttentionOut, buffers.out, count, shape_.heads * shape_.value_width);
    device_.product(buffers.out, count, o_, buffers.sums);
    device_.show(LayerPart::kMixer, first, count, buffers.sums);
    device_.add(buffers.sums, count, hidden_, x, device_.seen(LayerFinding::kAttentionStream));
    device_.store(first, count, x);
  }

  D& device_;
  const NormSpec norm_spec_;
  const size_t hidden_;
  const GqaShape shape_;
  const float *const norm_, *const sinks_;
  const Linear<D>& o_;
  Projections projections_;
};

// Each of its own linear, then normed and turned.
template <class D>
class GqaProjections {
 public:
  using T = typename D::Element;

  GqaProjections(D& device, const DecoderSpec& spec, const GqaSpec& gqa, const GqaWeights<D>& weights)
      : device_(device), norm_(spec.norm), gqa_(gqa), weights_(weights) {}

  bool gates_output() const { return gqa_.output_gate; }

  void run(size_t first, size_t count, T* k, T* v) {
    const auto& buffers = device_.work().attention;
    gqa_.output_gate ? project_gated(first, count)
                     : project(weights_.q, weights_.q_norm, gqa_.heads, first, count, buffers.q);
    project(weights_.k, weights_.k_norm, gqa_.kv_heads, first, count, k);
    device_.product(buffers.in, count, weights_.v, buffers.sums);
    device_.turn_heads(buffers.sums, count, gqa_.kv_heads, gqa_.width, nullptr, nullptr, first, v);
  }

 private:
  // Of each head the query and its gate, which are rounded as they leave their product.
  void project_gated(size_t first, size_t count) {
    const auto& buffers = device_.work().attention;
    const size_t width = gqa_.width, all = gqa_.heads * width;
    device_.product(buffers.in, count, weights_.q, buffers.sums);
    const ColumnBlocks queries{.begin = 0, .width = width, .stride = 2 * width, .count = gqa_.heads};
    ColumnBlocks gates = queries;
    gates.begin = width;
    device_.copy_columns(buffers.sums, count, 2 * all, queries, buffers.q, all);
    device_.copy_columns(buffers.sums, count, 2 * all, gates, buffers.gates, all);
    turn(buffers.q, weights_.q_norm, gqa_.heads, first, count, buffers.q);
  }

  // Heads of queries or keys: projected, normed, turned.
  void project(const Linear<D>& linear, const float* norm, size_t heads, size_t first, size_t count, T* y) {
    const auto& buffers = device_.work().attention;
    device_.product(buffers.in, count, linear, buffers.sums);
    turn(buffers.sums, norm, heads, first, count, y);
  }
  template <class From>
  void turn(const From* x, const float* norm, size_t heads, size_t first, size_t count, T* y) {
    const size_t width = gqa_.width;
    const RopeSpec* const rope = gqa_.rope.dims == 0 ? nullptr : &gqa_.rope;
    if (gqa_.head_norms == HeadNorms::kAll) {
      device_.norm(x, count, heads * width, norm, norm_, y, nullptr);
      device_.turn_heads(y, count, heads, width, nullptr, rope, first, y);
      return;
    }
    const HeadNorm head_norm{.weight = norm, .use = norm_.use, .eps = norm_.eps};
    const bool normed = gqa_.head_norms == HeadNorms::kPerHead;
    device_.turn_heads(x, count, heads, width, normed ? &head_norm : nullptr, rope, first, y);
  }

  D& device_;
  const NormSpec norm_;
  const GqaSpec& gqa_;
  const GqaWeights<D>& weights_;
};

}  // namespace nibblecast
