// model/decoder/latent_attention.h - multi-head latent attention (MlaSpec): what makes its queries, keys and
// values; the rest is attention.h's. Keys and values of every head are expanded, as transformers does.
#pragma once

#include "model/decoder/attention.h"

namespace nibblecast {

template <class D>
class MlaProjections {
 public:
  using T = typename D::Element;

  MlaProjections(D& device, const DecoderSpec& spec, const MlaSpec& mla, const MlaWeights<D>& weights)
      : device_(device),
        norm_{.eps = mla.rank_eps, .use = spec.norm.use},
        mla_(mla),
        rope_(mla.rope.dims == 0 ? nullptr : &mla.rope),
        weights_(weights) {}

  bool gates_output() const { return false; }

  void run(size_t first, size_t count, T* k, T* v) {
    make_queries(first, count);
    make_keys_and_values(first, count, k, v);
  }

 private:
  void make_queries(size_t first, size_t count) {
    const auto& buffers = device_.work().attention;
    if (mla_.q_rank == 0) {
      device_.product(buffers.in, count, weights_.q, buffers.sums);
    } else {
      device_.product(buffers.in, count, weights_.q_a, buffers.sums);
      device_.norm(buffers.sums, count, mla_.q_rank, weights_.q_norm, norm_, buffers.rank,
                   device_.seen(LayerFinding::kQueryRank));
      device_.add_moments(LayerFinding::kQueryRank, buffers.rank, count, mla_.q_rank);
      device_.product(buffers.rank, count, weights_.q_b, buffers.sums);
    }
    device_.turn_heads(buffers.sums, count, mla_.heads.heads, mla_.heads.key_width(), nullptr, rope_, first,
                       buffers.q);
  }

  void make_keys_and_values(size_t first, size_t count, T* k, T* v) {
    const auto& buffers = device_.work().attention;
    const auto& kv_a = weights_.kv_a.weight;
    device_.product_rows(buffers.in, count, kv_a, 0, mla_.kv_rank, buffers.sums);
    device_.product_rows(buffers.in, count, kv_a, mla_.kv_rank, mla_.heads.shared, buffers.position);
    device_.norm(buffers.sums, count, mla_.kv_rank, weights_.kv_norm, norm_, buffers.rank,
                 device_.seen(LayerFinding::kKvRank));
    device_.add_moments(LayerFinding::kKvRank, buffers.rank, count, mla_.kv_rank);
    device_.turn_heads(buffers.position, count, 1, mla_.heads.shared, nullptr, rope_, first, buffers.shared);
    device_.product(buffers.rank, count, weights_.kv_b, buffers.sums);
    device_.spread_latent(mla_.heads, buffers.sums, buffers.shared, count, k, v);
  }

  D& device_;
  const NormSpec norm_;
  const MlaSpec& mla_;
  const RopeSpec* const rope_;
  const MlaWeights<D>& weights_;
};

}  // namespace nibblecast
