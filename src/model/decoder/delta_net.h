// model/decoder/delta_net.h - the first half of a layer with a gated delta net: x += o(delta net of norm(x)).
// The steps in their order; D computes them (model/decoder/cpu_ops.h).
#pragma once

#include <algorithm>

#include "model/decoder/findings.h"
#include "model/decoder/weights.h"
#include "model/token_rows.h"
#include "ops/delta_net.h"
#include "ops/gates.h"

namespace nibblecast {

template <class D>
class DeltaNetBlock {
 public:
  using T = typename D::Element;

  DeltaNetBlock(D& device, const DecoderSpec& spec, const DeltaNetSpec& net,
                const DeltaNetWeights<D>& weights)
      : device_(device),
        norm_(spec.norm),
        hidden_(spec.hidden),
        input_(net.input),
        shape_(net.shape),
        weights_(weights) {}

  // A longer row than a chunk goes through in chunks of its own, in order, each with the state that the one
  // before left.
  void run(const RowGroup& group) {
    const size_t chunk = D::kSizes.chunk_tokens;
    for (size_t begin = 0; begin < group.tokens; begin += chunk) {
      run_chunk(group, begin, std::min(chunk, group.tokens - begin));
      device_.report(group.begin + begin + chunk);
    }
  }

 private:
  // Tokens [begin, begin + count) of the group.
  void run_chunk(const RowGroup& group, size_t begin, size_t count) {
    const auto& buffers = device_.work().delta_net;
    const size_t first = group.begin + begin;
    T* const x = device_.load(first, count);
    device_.norm(x, count, hidden_, weights_.norm, norm_, buffers.in,
                 device_.seen(LayerFinding::kAttentionIn));
    device_.add_moments(LayerFinding::kAttentionIn, buffers.in, count, hidden_);
    input_ == DeltaNetInput::kSplit ? project(count) : project_by_head(count);
    device_.delta_net(shape_, weights_.vectors, group, begin, count,
                      device_.seen(LayerFinding::kAttentionOut));
    device_.add_moments(LayerFinding::kAttentionOut, buffers.out, count, shape_.values());
    device_.product(buffers.out, count, weights_.o, buffers.sums);
    device_.show(LayerPart::kMixer, first, count, buffers.sums);
    device_.add(buffers.sums, count, hidden_, x, device_.seen(LayerFinding::kAttentionStream));
    device_.store(first, count, x);
  }

  void project(size_t count) {
    const auto& buffers = device_.work().delta_net;
    device_.product(buffers.in, count, weights_.qkv, buffers.x);
    device_.product(buffers.in, count, weights_.z, buffers.z);
    device_.product(buffers.in, count, weights_.b, buffers.b);
    device_.product(buffers.in, count, weights_.a, buffers.a);
  }

  // The products' rows are those of one key head after the other, each with those of its value heads.
  void project_by_head(size_t count) {
    const auto& buffers = device_.work().delta_net;
    const size_t key = shape_.key_width, values = shape_.group() * shape_.value_width,
                 heads = shape_.key_heads;
    const size_t own = 2 * (key + values), channels = shape_.channels();
    const auto deal = [&](size_t begin, size_t width, size_t of, float* y, size_t y_stride) {
      const ColumnBlocks blocks{.begin = begin, .width = width, .stride = of, .count = heads};
      device_.copy_columns(buffers.sums, count, heads * of, blocks, y, y_stride);
    };
    device_.product(buffers.in, count, weights_.qkvz, buffers.sums);
    deal(0, key, own, buffers.x, channels);
    deal(key, key, own, buffers.x + shape_.keys(), channels);
    deal(2 * key, values, own, buffers.x + 2 * shape_.keys(), channels);
    deal(2 * key + values, values, own, buffers.z, shape_.values());
    const size_t group = shape_.group();
    device_.product(buffers.in, count, weights_.ba, buffers.sums);
    deal(0, group, 2 * group, buffers.b, shape_.value_heads);
    deal(group, group, 2 * group, buffers.a, shape_.value_heads);
  }

  D& device_;
  const NormSpec norm_;
  const size_t hidden_;
  const DeltaNetInput input_;
  const DeltaNetShape shape_;
  const DeltaNetWeights<D>& weights_;
};

}  // namespace nibblecast
