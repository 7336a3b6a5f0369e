// The first half of a layer on a CUDA device; as attention.cpp, a group of rows at a time.

#include <algorithm>
#include <cmath>

#include "model/families/deepseek_v4/cuda_state.h"
#include "ops/indexer_cuda.h"
#include "ops/rmsnorm_cuda.h"

namespace nibblecast {
namespace {

template <class T>
class Attention {
 public:
  Attention(CudaForwardState<T>& state, const CudaAttentionWeights<T>& weights, const CudaGroup& group,
            T* streams)
      : state_(state),
        config_(state.config),
        weights_(weights),
        group_(group),
        buffers_(*state.attention),
        stream_(state.computing),
        streams_(streams),
        count_(group.rows.tokens),
        ratio_(config_.compress_ratios[state.layer]),
        rope_(ratio_ == 0 ? state.sliding_rope : state.compress_rope),
        positions_(state.tokens->positions + group.rows.begin),
        eps_(static_cast<float>(config_.rms_norm_eps)),
        entries_(group.entries.at(ratio_)) {}

  void run() {
    mix_and_norm(state_, weights_.hyper, weights_.attn_norm, streams_, count_, buffers_.x, buffers_.mixes,
                 state_.finding(CudaFindings::kAttentionX));
    make_queries_rank();
    make_raw_keys();
    if (weights_.compressor) compress("attn.compressor", *weights_.compressor, buffers_.entries);
    if (weights_.index_compressor && entries_.most > config_.index_topk) choose_entries();
    for (const CudaGroup::Chunk& chunk : group_.chunks) attend(chunk);
  }

 private:
  template <class Out>
  void product(const std::string& module, const T* x, size_t rows, size_t k, const T* w, size_t n, Out* y) {
    state_.timed(Part::kAttentionProducts, [&] {
      state_.product(state_.input(x, rows, k, state_.input_scale(module)), rows, k, w, n, y);
    });
  }

  void make_queries_rank() {
    const size_t rank = config_.q_lora_rank;
    product("attn.wq_a", buffers_.x, count_, config_.hidden_size, weights_.wq_a, rank, buffers_.sums);
    state_.timed(Part::kKeys, [&] {
      rmsnorm_cuda(stream_, buffers_.sums, count_, rank, weights_.q_norm, eps_, buffers_.qr,
                   state_.finding(CudaFindings::kQueriesRank));
    });
  }

  void make_raw_keys() {
    const size_t width = config_.head_dim;
    product("attn.wkv", buffers_.x, count_, config_.hidden_size, weights_.wkv, width, buffers_.sums);
    state_.timed(Part::kKeys, [&] {
      norm_and_turn_cuda(stream_, buffers_.sums, count_, width, weights_.kv_norm, eps_, rope_, positions_,
                         buffers_.kv);
    });
  }

  // Compressed entries of every row; the projections' sums stay FP32, as the reference has them.
  void compress(const std::string& module, const CudaCompressor& weights, T* entries) {
    const size_t channels = weights.view.shape.channels(), width = config_.hidden_size;
    product(module + ".wkv", buffers_.x, count_, width, static_cast<const T*>(weights.wkv), channels,
            buffers_.values);
    product(module + ".wgate", buffers_.x, count_, width, static_cast<const T*>(weights.wgate), channels,
            buffers_.gates);
    state_.timed(Part::kKeys, [&] {
      compress_cuda(stream_, weights.view, entries_.rows, group_.spans.size(), entries_.most, buffers_.values,
                    buffers_.gates, entries);
    });
  }

  // Where a row has more entries than the indexer keeps: which ones each query sees.
  void choose_entries() {
    compress("attn.indexer.compressor", *weights_.index_compressor, buffers_.index_entries);
    product("attn.indexer.weights_proj", buffers_.x, count_, config_.hidden_size, weights_.index_weights,
            config_.index_n_heads, buffers_.head_weights);
    chosen_words_ = (entries_.most + 63) / 64;
    for (size_t row = 0; row < group_.spans.size(); ++row) {
      const RowSpan& span = group_.spans[row];
      if (span.length / ratio_ <= config_.index_topk) {
        fill_async(stream_, buffers_.chosen + span.begin * chosen_words_, 0xff,
                   span.length * chosen_words_ * sizeof(uint64_t));
        continue;
      }
      for (size_t begin = 0; begin < span.length; begin += kCudaIndexTokens)
        choose_chunk(row, begin, std::min<size_t>(kCudaIndexTokens, span.length - begin));
    }
  }

  // Queries [begin, begin + count) of a row.
  void choose_chunk(size_t row, size_t begin, size_t count) {
    const size_t heads = config_.index_n_heads, dim = config_.index_head_dim, rank = config_.q_lora_rank;
    const size_t first = group_.spans[row].begin + begin;
    product("attn.indexer.wq_b", buffers_.qr + first * rank, count, rank, weights_.index_wq_b, heads * dim,
            buffers_.index_q);
    // Keys that the chunk's last query sees; the rest of the row is not scored.
    const size_t keys = (begin + count) / ratio_;
    state_.timed(Part::kKeys, [&] {
      turn_heads_cuda(stream_, buffers_.index_q, count, heads, dim, rope_, positions_ + first);
      index_scores_cuda(stream_, buffers_.index_q, buffers_.head_weights + first * heads,
                        1.0f / std::sqrt(static_cast<float>(dim * heads)), count, heads, dim,
                        buffers_.index_entries + entries_.first[row] * dim, keys, buffers_.scores);
      choose_top_k_cuda(stream_, buffers_.scores, count, keys, begin, ratio_, config_.index_topk,
                        buffers_.chosen + first * chosen_words_, chosen_words_,
                        state_.finding(CudaFindings::kNanEntry));
    });
  }

  // A chunk of queries, through to the streams.
  void attend(const CudaGroup::Chunk& chunk) {
    const size_t heads = config_.num_attention_heads, width = config_.head_dim, rank = config_.q_lora_rank;
    product("attn.wq_b", buffers_.qr + chunk.begin * rank, chunk.tokens, rank, weights_.wq_b, heads * width,
            buffers_.q);
    const AttentionCuda<T> attention{.heads = static_cast<uint32_t>(heads),
                                     .width = static_cast<uint32_t>(width),
                                     .window = static_cast<uint32_t>(config_.sliding_window),
                                     .ratio = ratio_,
                                     .rows = entries_.rows,
                                     .raw = buffers_.kv,
                                     .entries = ratio_ == 0 ? nullptr : buffers_.entries,
                                     .chosen = chosen_words_ == 0 ? nullptr : buffers_.chosen,
                                     .chosen_words = static_cast<uint32_t>(chosen_words_),
                                     .sinks = weights_.sinks,
                                     .eps = eps_,
                                     .rope = rope_};
    state_.timed(Part::kAttention, [&] {
      attend_cuda(stream_, attention, chunk.blocks, chunk.block_count, chunk.begin, buffers_.q,
                  state_.finding(CudaFindings::kAttentionOut));
    });
    project(chunk);
    state_.timed(Part::kSpread, [&] {
      spread_to_streams_cuda(stream_, buffers_.mixes + chunk.begin, buffers_.y, chunk.tokens, config_.hc_mult,
                             config_.hidden_size, streams_ + chunk.begin * state_.stream_width(),
                             state_.finding(CudaFindings::kAttentionStreams));
    });
  }

  // wo_a, each group of heads by itself, then wo_b.
  void project(const CudaGroup::Chunk& chunk) {
    const size_t groups = config_.o_groups, rank = config_.o_lora_rank;
    const size_t width = config_.num_attention_heads / groups * config_.head_dim;
    state_.timed(Part::kAttentionProducts, [&] {
      state_.products.multiply(
          stream_,
          {.m = chunk.tokens,
           .n = rank,
           .k = width,
           .x_stride = groups * width,
           .y_stride = groups * rank,
           .count = groups,
           .x_step = width,
           .w_step = rank * width,
           .y_step = rank},
          state_.input(buffers_.q, chunk.tokens, groups * width, state_.input_scale("attn.wo_a")),
          weights_.wo_a, buffers_.u);
    });
    state_.timed(Part::kKeys, [&] {
      amax_cuda(stream_, buffers_.u, chunk.tokens * groups * rank, state_.finding(CudaFindings::kOutRank));
    });
    product("attn.wo_b", buffers_.u, chunk.tokens, groups * rank, weights_.wo_b, config_.hidden_size,
            buffers_.y);
    state_.show(LayerPart::kMixer, group_.rows.begin + chunk.begin, chunk.tokens, buffers_.y);
  }

  CudaForwardState<T>& state_;
  const DeepseekV4Config& config_;
  const CudaAttentionWeights<T>& weights_;
  const CudaGroup& group_;
  CudaAttentionBuffers<T>& buffers_;
  const CudaStreamHandle stream_;
  T* const streams_;
  const size_t count_;
  const uint32_t ratio_;
  const RopeView rope_;
  const uint32_t* const positions_;
  const float eps_;
  const CudaGroup::Entries& entries_;
  size_t chosen_words_ = 0;  // 0: every visible entry is seen
};

}  // namespace

template <class T>
void multiply_fn(CudaForwardState<T>& state, const T* streams, size_t count, const T* fn, size_t outputs,
                 float* products) {
  state.products.multiply(state.computing,
                          fn_product(count, state.config.hc_mult, state.config.hidden_size, outputs), streams,
                          fn, products);
}

template <class T>
void mix_and_norm(CudaForwardState<T>& state, const CudaHyper<T>& hyper, const float* norm, const T* streams,
                  size_t count, T* x, StreamMix* mixes, DeviceAmax seen) {
  const size_t outputs = (2 + state.config.hc_mult) * state.config.hc_mult;
  float* const products = state.attention->products;
  state.timed(Part::kMix, [&] {
    multiply_fn(state, streams, count, hyper.fn, kFnParts<T> * outputs, products);
    mix_streams_cuda(state.computing, hyper.view, streams, count, products, norm, x, mixes, seen);
  });
}

template <class T>
void run_attention(CudaForwardState<T>& state, const CudaAttentionWeights<T>& weights, const CudaGroup& group,
                   T* streams) {
  Attention<T>(state, weights, group, streams).run();
}

template void multiply_fn(CudaForwardState<float>&, const float*, size_t, const float*, size_t, float*);
template void multiply_fn(CudaForwardState<bf16>&, const bf16*, size_t, const bf16*, size_t, float*);
template void mix_and_norm(CudaForwardState<float>&, const CudaHyper<float>&, const float*, const float*,
                           size_t, float*, StreamMix*, DeviceAmax);
template void mix_and_norm(CudaForwardState<bf16>&, const CudaHyper<bf16>&, const float*, const bf16*, size_t,
                           bf16*, StreamMix*, DeviceAmax);
template void run_attention(CudaForwardState<float>&, const CudaAttentionWeights<float>&, const CudaGroup&,
                            float*);
template void run_attention(CudaForwardState<bf16>&, const CudaAttentionWeights<bf16>&, const CudaGroup&,
                            bf16*);

}  // namespace nibblecast
