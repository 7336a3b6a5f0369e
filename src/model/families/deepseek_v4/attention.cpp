// The first half of a layer: compressed and raw keys of whole rows, then queries, a group of heads at a time.

#include "ops/attention.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/integers.h"
#include "base/parallel.h"
#include "model/families/deepseek_v4/checks.h"
#include "model/families/deepseek_v4/state.h"
#include "ops/indexer.h"
#include "ops/linear.h"
#include "ops/rmsnorm.h"
#include "ops/round.h"

namespace nibblecast {
namespace {

// Rows are taken in groups of this many tokens (or one longer row), each row filled up to whole panels of
// keys, and queries in chunks of as many: fixed, so that memory is bounded and results do not depend on how
// much there is.
constexpr size_t kGroupTokens = 2048;
constexpr size_t kIndexTokens = 512;  // queries whose indexer heads exist at once
constexpr size_t kTaskTokens = 16;

// RMSNorm of one vector, then RoPE of its last channels, in FP32, rounded once.
template <class T, class From>
void norm_and_turn(const From* x, size_t width, const float* weight, float eps, const Rope& rope,
                   size_t position, T* y) {
  thread_local std::vector<float> own;
  own.resize(width);
  rmsnorm(x, width, weight, eps, own.data());
  rope.apply(own.data() + width - rope.dims(), position);
  round_rows(own.data(), width, 1, width, y, width);
}

// The compressed entries of a group's rows: one buffer, each row's padded with zeros to a multiple of `step`.
template <class T>
struct Entries {
  std::vector<T> values;      // [padded entries of all rows, dim]
  std::vector<size_t> first;  // [rows + 1]
};

template <class T>
class Attention {
 public:
  Attention(ForwardState<T>& state, const AttentionWeights& weights)
      : state_(state),
        config_(state.config),
        weights_(weights),
        ratio_(config_.compress_ratios[state.layer]),
        rope_(ratio_ == 0 ? state.sliding_rope : state.compress_rope),
        eps_(static_cast<float>(config_.rms_norm_eps)) {}

  void run() {
    for (size_t row = 0; row < state_.rows.size();) {
      const size_t first = row;
      size_t tokens = 0, padded = 0;
      while (row < state_.rows.size()) {
        padded += ceil_div(state_.rows[row].length, kPanel) * kPanel;
        if (row > first && padded > kGroupTokens) break;
        tokens += state_.rows[row++].length;
      }
      if (tokens > 0) run_group({state_.rows.data() + first, row - first}, tokens);
    }
    record();
  }

 private:
  void run_group(std::span<const RowSpan> rows, size_t tokens) {
    rows_ = rows;
    begin_ = rows[0].begin;
    count_ = tokens;
    mix();
    state_.add_moments(v4_tap::kAttentionIn, x_.data(), count_, config_.hidden_size);
    make_queries_rank();
    state_.add_moments(v4_tap::kQueryRank, qr_.data(), count_, config_.q_lora_rank);
    make_raw_keys();
    if (weights_.compressor) make_entry_keys();
    chosen_words_ = 0;
    if (weights_.indexer) choose_entries(*weights_.indexer);
    for (size_t begin = 0; begin < count_; begin += kGroupTokens) {
      attend_chunk(begin, std::min(kGroupTokens, count_ - begin));
    }
  }

  // Streams -> x [tokens, D], normed.
  void mix() {
    const size_t width = config_.hidden_size;
    T* x = x_.take(count_ * width);
    mixes_.resize(count_);
    parallel_for(ceil_div(count_, kHyperRows), [&](size_t block) {
      const size_t first = block * kHyperRows, count = std::min(kHyperRows, count_ - first);
      mix_and_norm(state_, weights_.hyper, weights_.attn_norm, begin_ + first, count, x + first * width,
                   mixes_.data() + first, x_amax_);
    });
  }

  // f(token) for every token of the group.
  template <class F>
  void for_tokens(const F& f) const {
    parallel_for(ceil_div(count_, kTaskTokens), [&](size_t block) {
      const size_t end = std::min(count_, (block + 1) * kTaskTokens);
      for (size_t token = block * kTaskTokens; token < end; ++token) f(token);
    });
  }

  // x [rows, width] as the module takes it: rounded where it has an input_scale. Until the next call.
  const T* input(const T* x, size_t rows, size_t width, const std::string& module) {
    const float scale = state_.input_scale(module);
    if (scale == 0) return x;
    T* const rounded = rounded_.take(rows * width);
    round_inputs(state_, x, rows, width, scale, rounded);
    return rounded;
  }
  const T* mixed_for(const std::string& module) {
    return input(x_.data(), count_, config_.hidden_size, module);
  }

  void make_queries_rank() {
    const size_t rank = config_.q_lora_rank;
    float* sums = sums_.take(count_ * rank);
    T* qr = qr_.take(count_ * rank);
    linear(mixed_for("attn.wq_a"), count_, weights_.wq_a, sums);
    for_tokens([&](size_t token) {
      rmsnorm(sums + token * rank, rank, weights_.q_norm.data(), eps_, qr + token * rank);
      qr_amax_.add(amax(qr + token * rank, rank));
    });
  }

  void make_raw_keys() {
    const size_t width = config_.head_dim;
    float* sums = sums_.take(count_ * width);
    T* kv = kv_.take(count_ * width);
    linear(mixed_for("attn.wkv"), count_, weights_.wkv, sums);
    for_tokens([&](size_t token) {
      norm_and_turn(sums + token * width, width, weights_.kv_norm.data(), eps_, rope_,
                    state_.positions[begin_ + token], kv + token * width);
    });
    raw_keys_.clear();
    for (const RowSpan& row : rows_) {
      raw_keys_.emplace_back(kv + (row.begin - begin_) * width, row.length, width);
    }
  }

  void make_entry_keys() {
    const Entries<T> entries = compress(*weights_.compressor, "attn.compressor", 1);
    const size_t width = config_.head_dim;
    entry_keys_.clear();
    for (size_t row = 0; row < rows_.size(); ++row) {
      entry_keys_.emplace_back(entries.values.data() + entries.first[row] * width, rows_[row].length / ratio_,
                               width);
    }
  }

  // Compressed entries of every row. The projections' sums stay FP32, as the reference has them.
  Entries<T> compress(const CompressorWeights& weights, const std::string& module, size_t step) {
    const CompressorShape& shape = weights.shape;
    const float* values = values_.take(count_ * shape.channels());
    const float* gates = gates_.take(count_ * shape.channels());
    linear(mixed_for(module + ".wkv"), count_, weights.wkv, values_.data());
    linear(mixed_for(module + ".wgate"), count_, weights.wgate, gates_.data());
    Entries<T> entries;
    entries.first.push_back(0);
    for (const RowSpan& row : rows_) {
      entries.first.push_back(entries.first.back() + ceil_div(row.length / shape.ratio, step) * step);
    }
    entries.values.resize(entries.first.back() * shape.dim);
    for (size_t row = 0; row < rows_.size(); ++row) {
      const size_t first_value = (rows_[row].begin - begin_) * shape.channels();
      parallel_for(rows_[row].length / shape.ratio, [&](size_t entry) {
        thread_local std::vector<float> own;
        own.resize(shape.dim);
        compress_window(shape, values + first_value, gates + first_value, weights.ape.data(), entry,
                        own.data());
        norm_and_turn(own.data(), shape.dim, weights.norm.data(), eps_, rope_, entry * shape.ratio,
                      entries.values.data() + (entries.first[row] + entry) * shape.dim);
      });
    }
    return entries;
  }

  // Where a row has more entries than the indexer keeps: which ones each query sees.
  void choose_entries(const IndexerWeights& weights) {
    size_t longest = 0;
    for (const RowSpan& row : rows_) longest = std::max(longest, row.length / ratio_);
    if (longest <= config_.index_topk) return;
    const Entries<T> keys = compress(weights.compressor, "attn.indexer.compressor", kIndexKeyStep);
    const size_t heads = config_.index_n_heads;
    // FP32 like the scores they enter, where the reference has BF16 throughout.
    std::vector<float> head_weights(count_ * heads);
    linear(mixed_for("attn.indexer.weights_proj"), count_, weights.weights_proj, head_weights.data());
    const float scale = 1.0f / std::sqrt(static_cast<float>(config_.index_head_dim * heads));
    for (float& weight : head_weights) weight *= scale;
    chosen_words_ = ceil_div(longest, 64);
    chosen_.assign(count_ * chosen_words_, 0);
    for (size_t row = 0; row < rows_.size(); ++row) {
      if (rows_[row].length / ratio_ <= config_.index_topk) {
        choose_all(row);
        continue;
      }
      const T* row_keys = keys.values.data() + keys.first[row] * config_.index_head_dim;
      for (size_t begin = 0; begin < rows_[row].length; begin += kIndexTokens) {
        choose_chunk(weights, row, begin, std::min(kIndexTokens, rows_[row].length - begin), row_keys,
                     head_weights.data());
      }
    }
  }

  void choose_all(size_t row) {
    const size_t first = rows_[row].begin - begin_;
    std::fill_n(chosen_.begin() + static_cast<ptrdiff_t>(first * chosen_words_),
                rows_[row].length * chosen_words_, ~uint64_t{0});
  }

  // Queries [begin, begin + count) of a row.
  void choose_chunk(const IndexerWeights& weights, size_t row, size_t begin, size_t count, const T* keys,
                    const float* head_weights) {
    const size_t heads = config_.index_n_heads, dim = config_.index_head_dim, rank = config_.q_lora_rank;
    const size_t first = rows_[row].begin - begin_ + begin;
    std::vector<T> q(count * heads * dim);
    linear(input(qr_.data() + first * rank, count, rank, "attn.indexer.wq_b"), count, weights.wq_b, q.data());
    // Keys that the chunk's last query sees; the rest of the row is not scored.
    const size_t key_count = ceil_div((begin + count) / ratio_, kIndexKeyStep) * kIndexKeyStep;
    parallel_for(ceil_div(count, kTaskTokens), [&](size_t block) {
      const size_t at = block * kTaskTokens, queries = std::min(kTaskTokens, count - at);
      thread_local std::vector<float> scores;
      scores.resize(kTaskTokens * key_count);
      T* own = q.data() + at * heads * dim;
      for (size_t i = 0; i < queries * heads; ++i) {
        rope_.apply(own + (i + 1) * dim - rope_.dims(), begin + at + i / heads);
      }
      index_scores(own, head_weights + (first + at) * heads, queries, heads, dim, keys, key_count,
                   scores.data());
      for (size_t query = 0; query < queries; ++query) {
        const size_t visible = (begin + at + query + 1) / ratio_;
        if (!choose_top_k(scores.data() + query * key_count, visible, config_.index_topk,
                          chosen_.data() + (first + at + query) * chosen_words_, chosen_words_)) {
          refuse_nan_entry(state_.module("attn.indexer"));
        }
      }
    });
  }

  // A block of queries of one row: the unit of attend().
  struct QueryBlock {
    size_t row, first, count;  // `first` is a position in the row
  };

  // Queries [begin, begin + count) of the group, through to the streams.
  void attend_chunk(size_t begin, size_t count) {
    const size_t groups = config_.o_groups, heads = config_.num_attention_heads / groups;
    const size_t width = heads * config_.head_dim, rank = config_.o_lora_rank;
    const std::vector<QueryBlock> query_blocks = split(begin, count, std::max<size_t>(1, kTileRows / heads));
    T *q = q_.take(count * width), *u = u_.take(count * groups * rank),
      *y = y_.take(count * config_.hidden_size);
    for (size_t group = 0; group < groups; ++group) {
      const T* const qr =
          input(qr_.data() + begin * config_.q_lora_rank, count, config_.q_lora_rank, "attn.wq_b");
      linear(qr, count, config_.q_lora_rank, weights_.wq_b, {group * width, width}, q, width);
      parallel_for(query_blocks.size(), [&](size_t i) {
        const QueryBlock& block = query_blocks[i];
        const size_t token = rows_[block.row].begin - begin_ + block.first - begin;
        attend_block(block, group, heads, q + token * width);
      });
      state_.add_moments(v4_tap::kAttentionOut, q, count, width, group * width);
      linear(input(q, count, width, "attn.wo_a"), count, width, weights_.wo_a, {group * rank, rank},
             u + group * rank, groups * rank);
      const double part = static_cast<double>(group + 1) / static_cast<double>(groups + 1);
      state_.report(static_cast<double>(begin_ + begin) + part * static_cast<double>(count), state_.tokens());
    }
    parallel_for(count, [&](size_t token) { u_amax_.add(amax(u + token * groups * rank, groups * rank)); });
    state_.add_moments(v4_tap::kOutRank, u, count, groups * rank);
    linear(input(u, count, groups * rank, "attn.wo_b"), count, weights_.wo_b, y);
    state_.show(LayerPart::kMixer, begin_ + begin, count, y);
    parallel_for(count, [&](size_t token) {
      spread(state_, mixes_[begin + token], begin_ + begin + token, y + token * config_.hidden_size,
             stream_amax_);
    });
  }

  // Blocks start at multiples of `block` in their row, so that they do not depend on how rows are grouped.
  std::vector<QueryBlock> split(size_t begin, size_t count, size_t block) const {
    std::vector<QueryBlock> result;
    for (size_t row = 0; row < rows_.size(); ++row) {
      const size_t row_begin = rows_[row].begin - begin_;
      const size_t first = std::max(begin, row_begin) - row_begin;
      const size_t end = std::min(begin + count, row_begin + rows_[row].length);
      for (size_t at = row_begin + first; at < end; at += block) {
        result.push_back({row, at - row_begin, std::min(block, end - at)});
      }
    }
    return result;
  }

  void attend_block(const QueryBlock& block, size_t group, size_t heads, T* q) {
    const size_t width = config_.head_dim;
    for (size_t i = 0; i < block.count * heads; ++i) {
      norm_and_turn(q + i * width, width, nullptr, eps_, rope_, block.first + i / heads, q + i * width);
    }
    AttentionKeys<T> keys{
        .raw = &raw_keys_[block.row], .window = config_.sliding_window, .ratio = ratio_, .rope = &rope_};
    if (ratio_ != 0) keys.entries = &entry_keys_[block.row];
    if (chosen_words_ != 0) {
      keys.chosen = chosen_.data() + (rows_[block.row].begin - begin_) * chosen_words_;
      keys.chosen_words = chosen_words_;
    }
    attend(keys, block.first, block.count, heads, weights_.sinks.data() + group * heads, q);
    o_amax_.add(amax(q, block.count * heads * width));
  }

  void record() {
    state_.record(v4_tap::kAttentionIn, "attn.wq_a", x_amax_);
    state_.record(v4_tap::kQueryRank, "attn.wq_b", qr_amax_);
    state_.record(v4_tap::kAttentionOut, "attn.wo_a", o_amax_);
    state_.record(v4_tap::kOutRank, "attn.wo_b", u_amax_);
    check_streams(state_.module("hc_attn"), stream_amax_.value());
  }

  ForwardState<T>& state_;
  const DeepseekV4Config& config_;
  const AttentionWeights& weights_;
  const size_t ratio_;
  const Rope& rope_;
  const float eps_;
  Amax x_amax_, qr_amax_, o_amax_, u_amax_, stream_amax_;

  // Of the group of rows in progress; tokens count from begin_.
  std::span<const RowSpan> rows_;
  size_t begin_ = 0, count_ = 0;
  Workspace<T> x_, qr_, kv_;         // [count, D], [count, q_lora_rank], [count, head_dim]
  Workspace<float> sums_;            // [count, q_lora_rank or head_dim]
  Workspace<float> values_, gates_;  // [count, a compressor\'s channels]
  std::vector<StreamMix> mixes_;
  std::vector<KeyPanels<T>> raw_keys_, entry_keys_;  // of each row
  Workspace<T> rounded_;                             // of the module in progress
  Workspace<T> q_, u_, y_;        // of the chunk in progress: one group of heads, all ranks, [count, D]
  size_t chosen_words_ = 0;       // 0: every visible entry is seen
  std::vector<uint64_t> chosen_;  // [count, chosen_words_]
};

}  // namespace

template <class T>
void run_attention(ForwardState<T>& state, const AttentionWeights& weights) {
  Attention<T>(state, weights).run();
}

template <class T>
uint64_t attention_bytes(const DeepseekV4Config& c, uint64_t tokens, uint64_t longest_row, size_t threads) {
  const uint64_t padded = std::max<uint64_t>(ceil_div(longest_row, kPanel) * kPanel, kGroupTokens);
  const uint64_t group = std::min(tokens, padded), chunk = std::min<uint64_t>(group, kGroupTokens);
  const uint64_t heads = c.num_attention_heads / c.o_groups, index_width = c.index_n_heads * c.index_head_dim;
  // A row of r tokens has r / 4 entries at most, padded to a panel or, for the indexer, to kIndexKeyStep.
  const uint64_t rows = padded / kPanel;
  const uint64_t keys =
      KeyPanels<T>::bytes(padded, c.head_dim) + KeyPanels<T>::bytes(padded / 4 + rows * kPanel, c.head_dim);
  const uint64_t channels = 2 * std::max(c.head_dim, c.index_head_dim);  // of a compressor
  const uint64_t whole =
      group * ((c.hidden_size + c.q_lora_rank + c.head_dim) * sizeof(T) +
               (std::max(c.q_lora_rank, c.head_dim) + 2 * channels) * sizeof(float) + sizeof(StreamMix)) +
      keys + group * ceil_div(longest_row / 4, 64) * sizeof(uint64_t);
  const uint64_t compressing = group / 4 * c.head_dim * sizeof(T);
  const uint64_t indexing = group * c.index_n_heads * sizeof(float) +
                            (group / 4 + rows * kIndexKeyStep) * c.index_head_dim * sizeof(T) +
                            kIndexTokens * index_width * sizeof(T);
  const uint64_t attending =
      chunk * (heads * c.head_dim + c.o_groups * c.o_lora_rank + c.hidden_size) * sizeof(T);
  const uint64_t deepest =
      std::max({c.hidden_size, c.q_lora_rank, heads * c.head_dim, c.o_groups * c.o_lora_rank});
  const uint64_t thread =
      linear_scratch_bytes<T>(1, deepest) +
      attend_scratch_bytes<T>(c.head_dim, c.sliding_window, longest_row / 4) +
      matmul_scratch_bytes<T>(kPanel, attend_deepest(c.head_dim)) +
      mix_streams_scratch_bytes(c.hc_mult, c.hidden_size) +
      matmul_scratch_bytes<float>((2 + c.hc_mult) * c.hc_mult, c.hc_mult * c.hidden_size) +
      (kTaskTokens * (longest_row / 4 + kIndexKeyStep) + kTileRows * kIndexKeyStep) * sizeof(float);
  return whole + attending + std::max(compressing, indexing) + threads * thread;
}

template void run_attention(ForwardState<float>&, const AttentionWeights&);
template void run_attention(ForwardState<bf16>&, const AttentionWeights&);
template uint64_t attention_bytes<float>(const DeepseekV4Config&, uint64_t, uint64_t, size_t);
template uint64_t attention_bytes<bf16>(const DeepseekV4Config&, uint64_t, uint64_t, size_t);

}  // namespace nibblecast
