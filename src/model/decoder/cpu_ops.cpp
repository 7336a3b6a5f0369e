#include "model/decoder/cpu_ops.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "base/integers.h"
#include "base/parallel.h"
#include "formats/nvfp4_input.h"
#include "model/forward_checks.h"
#include "ops/activation.h"
#include "ops/linear.h"
#include "ops/rmsnorm.h"
#include "ops/round.h"
#include "ops/router.h"

namespace nibblecast {
namespace {

constexpr size_t kTaskTokens = 16;

// f(token) for tokens 0 .. count - 1.
template <class F>
void for_rows(size_t count, const F& f) {
  parallel_for(ceil_div(count, kTaskTokens), [&](size_t task) {
    const size_t end = std::min(count, (task + 1) * kTaskTokens);
    for (size_t row = task * kTaskTokens; row < end; ++row) f(row);
  });
}

template <class T>
void note(Amax* seen, const T* values, size_t count) {
  if (seen != nullptr) seen->add(amax(values, count));
}

// A row of sums with its bias, which may be null; `own` holds it.
const float* biased(const float* sums, const float* bias, size_t first, size_t count,
                    std::vector<float>& own) {
  if (bias == nullptr) return sums;
  own.resize(std::max(own.size(), count));
  round_biased_rows(sums, count, 1, count, bias + first, own.data(), count);
  return own.data();
}

std::vector<Rope> make_ropes(std::span<const RopeSpec> specs, size_t positions) {
  std::vector<Rope> ropes;
  for (const RopeSpec& spec : specs) ropes.push_back(make_rope(spec, positions));
  return ropes;
}

template <class Buffers, class... Args>
std::unique_ptr<Buffers> lay_out(Buffer& block, const Args&... args) {
  Arena counting;
  Buffers(counting, args...);
  block = Buffer(std::max<size_t>(counting.size_bytes(), 1));
  Arena arena(block.data());
  return std::make_unique<Buffers>(arena, args...);
}

}  // namespace

template <class T>
CpuOps<T>::CpuOps(const Model& model, TokenRows rows, const ForwardDevice&)
    : hidden_(std::get<DecoderSpec>(model.spec).hidden),
      rows_(std::move(rows)),
      groups_(group_rows(rows_.rows, kSizes.chunk_tokens, kPanel)),
      rope_specs_(distinct_ropes(std::get<DecoderSpec>(model.spec))),
      ropes_(make_ropes(rope_specs_, rows_.longest)) {
  const DecoderWidths widths(std::get<DecoderSpec>(model.spec));
  const CudaWorkload workload{rows_.rows.size(), tokens(), rows_.longest};
  residual_ = lay_out<ResidualBuffers<T>>(residual_block_, widths, uint64_t{tokens()}, true);
  work_ = lay_out<WorkBuffers<T>>(work_block_, widths, workload, kSizes, true);
  findings_ = std::vector<Amax>(LayerFinding::count(widths.experts));
}

template <class T>
void CpuOps<T>::embed(const EmbeddingShape& shape, uint64_t first, uint64_t count,
                      std::span<const std::byte> bytes) {
  check_embedding(shape.name, embed_tokens(shape, rows_.ids, first, count, bytes, residual_->x));
}

template <class T>
void CpuOps<T>::read_residual(uint64_t begin, std::span<std::byte> bytes) const {
  if (bytes.empty()) return;
  std::memcpy(bytes.data(), reinterpret_cast<const std::byte*>(residual_->x) + begin, bytes.size());
}

template <class T>
void CpuOps<T>::write_residual(uint64_t begin, std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  std::memcpy(reinterpret_cast<std::byte*>(residual_->x) + begin, bytes.data(), bytes.size());
}

template <class T>
void CpuOps<T>::begin_layer() {
  findings_ = std::vector<Amax>(findings_.size());
  moments_.clear();
  blocks_.clear();
}

template <class T>
template <class From>
void CpuOps<T>::norm(const From* x, size_t count, size_t width, const float* weight, const NormSpec& spec,
                     T* y, Seen seen) {
  for_rows(count, [&](size_t row) {
    rmsnorm(x + row * width, width, weight, spec.use, spec.eps, y + row * width);
    note(seen, y + row * width, width);
  });
}

template <class T>
const T* CpuOps<T>::rounded(const T* x, size_t count, size_t width, float input_scale) {
  if (input_scale == 0) return x;
  T* const to = rounded_.take(count * width);
  for_rows(count, [&](size_t row) {
    rounded_blocks_.add(width / 16, round_nvfp4_input(x + row * width, width, input_scale, to + row * width));
  });
  return to;
}

template <class T>
void CpuOps<T>::product(const T* x, size_t count, const Linear<CpuOps>& linear, float* y) {
  x = rounded(x, count, weight_cols(linear.weight), linear.input_scale);
  if (linear.bias == nullptr) return multiply(x, count, linear.weight, y, weight_rows(linear.weight));
  biased_linear(x, count, linear.weight, linear.bias, y);
}

template <class T>
void CpuOps<T>::multiply(const T* x, size_t count, const Matrix& weight, float* y, size_t y_stride) {
  linear(x, count, weight_cols(weight), weight, {0, weight_rows(weight)}, y, y_stride);
}

template <class T>
void CpuOps<T>::product_rows(const T* x, size_t count, const Matrix& weight, size_t first, size_t rows,
                             float* y) {
  linear(x, count, weight_cols(weight), weight, {first, rows}, y, rows);
}

template <class T>
template <class From>
void CpuOps<T>::turn_heads(const From* x, size_t count, size_t heads, size_t width, const HeadNorm* norm,
                           const RopeSpec* rope_spec, size_t first, T* y) {
  const Rope* const turn = rope_spec == nullptr ? nullptr : &rope(*rope_spec);
  const RopePlace place = rope_spec == nullptr ? RopePlace::kFirst : rope_spec->place;
  for_rows(count, [&](size_t row) {
    norm_and_turn_heads(x + row * heads * width, heads, width, norm, turn, rows_.positions[first + row],
                        y + row * heads * width, place);
  });
}

template <class T>
void CpuOps<T>::spread_latent(const LatentHeads& shape, const float* expanded, const T* shared, size_t count,
                              T* k, T* v) {
  for_rows(count, [&](size_t row) {
    nibblecast::spread_latent(shape, expanded + row * shape.heads * shape.expanded_width(),
                              shared + row * shape.shared, k + row * shape.heads * shape.key_width(),
                              v + row * shape.heads * shape.value);
  });
}

template <class T>
const Rope& CpuOps<T>::rope(const RopeSpec& spec) const {
  return ropes_[static_cast<size_t>(std::ranges::find(rope_specs_, spec) - rope_specs_.begin())];
}

template <class T>
void CpuOps<T>::see(const T* x, size_t count, size_t width, Seen seen) {
  for_rows(count, [&](size_t row) { note(seen, x + row * width, width); });
}

template <class T>
void CpuOps<T>::add(const float* y, size_t count, size_t width, T* x, Seen seen) {
  for_rows(count, [&](size_t row) {
    add_rounded(y + row * width, width, x + row * width);
    note(seen, x + row * width, width);
  });
}

template <class T>
void CpuOps<T>::attend(const GqaShape& shape, const RowGroup& group, size_t begin, size_t count, const T* q,
                       const T* k, const T* v, const float* sinks, T* out, Seen seen) {
  struct Block {
    size_t keys, first, count, at;  // which row's keys, position in the row, queries, token of the chunk
  };
  const size_t step = query_step(shape), keys_width = shape.kv_heads * shape.key_width,
               values_width = shape.kv_heads * shape.value_width;
  std::vector<GqaKeys<T>> keys;
  std::vector<Block> blocks;
  for (const RowPart& part : parts_of(group, begin, count)) {
    const size_t row_begin = rows_.rows[part.row].begin - group.begin, end = part.first + part.count;
    keys.emplace_back(shape, k + row_begin * keys_width, v + row_begin * values_width, end);
    for (size_t at = 0; at < part.count; at += step)
      blocks.push_back({keys.size() - 1, part.first + at, std::min(step, part.count - at), part.at + at});
  }
  parallel_for(blocks.size() * shape.kv_heads, [&](size_t task) {
    const Block& block = blocks[task / shape.kv_heads];
    attend_gqa(shape, keys[block.keys], task % shape.kv_heads, block.first, block.count, sinks,
               q + block.at * shape.heads * shape.key_width,
               out + block.at * shape.heads * shape.value_width);
  });
  see(out, count, shape.heads * shape.value_width, seen);
}

template <class T>
auto CpuOps<T>::parts_of(const RowGroup& group, size_t begin, size_t count) const -> std::vector<RowPart> {
  std::vector<RowPart> parts;
  for (size_t row = group.first; row < group.first + group.count; ++row) {
    const size_t row_begin = rows_.rows[row].begin - group.begin;
    const size_t first = std::max(begin, row_begin),
                 end = std::min(begin + count, row_begin + rows_.rows[row].length);
    if (first < end) parts.push_back({row, first - row_begin, end - first, first - begin});
  }
  return parts;
}

template <class T>
void CpuOps<T>::delta_net(const DeltaNetShape& shape, const DeltaNetVectors& vectors, const RowGroup& group,
                          size_t begin, size_t count, Seen seen) {
  const DeltaNetBuffers<T>& buffers = work_->delta_net;
  std::vector<DeltaNetRow> rows;
  for (const RowPart& part : parts_of(group, begin, count)) {
    rows.push_back({.begin = part.at,
                    .count = part.count,
                    .goes_on = part.first > 0,
                    .ends = part.first + part.count == rows_.rows[part.row].length});
  }
  nibblecast::delta_net(shape, vectors, buffers.inputs(), rows, buffers.carry, buffers.sums, buffers.o,
                        buffers.out);
  see(buffers.out, count, shape.values(), seen);
}

template <class T>
template <class To>
void CpuOps<T>::copy_columns(const float* x, size_t count, size_t x_width, const ColumnBlocks& blocks, To* y,
                             size_t y_stride) {
  for_rows(count,
           [&](size_t row) { nibblecast::copy_columns(x + row * x_width, blocks, y + row * y_stride); });
}

template <class T>
void CpuOps<T>::gate_elements(const T* gates, size_t count, size_t width, T* x, Seen seen) {
  for_rows(count, [&](size_t row) {
    nibblecast::gate_elements(gates + row * width, width, x + row * width);
    note(seen, x + row * width, width);
  });
}

template <class T>
void CpuOps<T>::gate_rows(const T* x, size_t count, const float* weight, float* y) {
  for_rows(count,
           [&](size_t row) { gate_row(x + row * hidden_, weight, hidden_, y + row * hidden_, hidden_); });
}

template <class T>
void CpuOps<T>::activate(const Activation& activation, const T* x, size_t count, size_t padded,
                         const GatedMlp<CpuOps>& weights, const float* row_weights, T* act, Seen mid,
                         Seen weighted) {
  const size_t inner = weight_rows(weights.up.weight);
  const auto take = [&](const Tile& tile, const float* gates, const float* ups) {
    thread_local std::vector<float> gate, up;
    for (size_t row = 0; row < tile.rows; ++row) {
      const size_t at = tile.row + row;
      const float* const g =
          gates == nullptr ? nullptr
                           : biased(gates + row * tile.stride, weights.gate.bias, tile.col, tile.cols, gate);
      const float* const u = biased(ups + row * tile.stride, weights.up.bias, tile.col, tile.cols, up);
      const float largest =
          nibblecast::activate(activation, g, u, tile.cols, 1.0f, act + at * inner + tile.col).unweighted;
      if (at >= count) continue;
      mid->add(largest);
      if (weighted != nullptr) weighted->add(to_float(from_float<T>(largest * row_weights[at])));
    }
  };
  const size_t width = weight_cols(weights.up.weight);
  x = rounded(x, padded, width, weights.up.input_scale);
  if (activation.gated()) {
    linears<T, 2>(x, padded, width, {weights.gate.weight, weights.up.weight}, {0, inner},
                  [&](const Tile& tile, const auto& sums) { take(tile, sums[0], sums[1]); });
  } else {
    linears<T, 1>(x, padded, width, {weights.up.weight}, {0, inner},
                  [&](const Tile& tile, const auto& sums) { take(tile, nullptr, sums[0]); });
  }
}

template <class T>
void CpuOps<T>::route(const RouterSpec& router, const float* bias, const float* logits, size_t first,
                      size_t count) {
  const RoutingBuffers& to = residual_->routing;
  for_rows(count, [&](size_t row) {
    const size_t at = (first + row) * router.top;
    if (!nibblecast::route(router, logits + row * router.experts, bias, to.chosen + at, to.weights + at))
      findings_[LayerFinding::kNanScore].add(1);
  });
}

template <class T>
void CpuOps<T>::gather(const uint32_t* tokens, size_t count, size_t padded, T* out) {
  for_rows(padded, [&](size_t row) {
    T* const to = out + row * hidden_;
    if (row < count)
      std::copy_n(residual_->x + tokens[row] * hidden_, hidden_, to);
    else
      std::fill_n(to, hidden_, T{});
  });
}

template <class T>
void CpuOps<T>::scatter_add(const float* y, const uint32_t* tokens, const float* weights, size_t count) {
  for_rows(count, [&](size_t row) {
    float* const to = residual_->sum + tokens[row] * hidden_;
    const float* const from = y + row * hidden_;
    for (size_t i = 0; i < hidden_; ++i) to[i] += from[i] * weights[row];
  });
}

template <class T>
std::vector<uint32_t> CpuOps<T>::findings() const {
  std::vector<uint32_t> bits;
  for (const Amax& finding : findings_) bits.push_back(std::bit_cast<uint32_t>(finding.value()));
  return bits;
}

template <class T>
void CpuOps<T>::begin_head() {
  std::ranges::copy(next_ids(rows_.rows, rows_.ids), work_->head.targets);
  std::fill_n(work_->head.states, tokens(), CrossEntropy{});
}

template <class T>
void CpuOps<T>::take_head(size_t slot, uint64_t held, std::span<const std::byte> bytes) {
  std::memcpy(work_->head.stored[slot] + held, bytes.data(), bytes.size());
}

template <class T>
void CpuOps<T>::add_logits(const float* logits, size_t count, size_t rows, uint64_t first_row, size_t first) {
  const HeadBuffers<T>& head = work_->head;
  for_rows(count, [&](size_t row) {
    nibblecast::add_logits(logits + row * kHeadRows, rows, first_row, head.targets[first + row],
                           head.states[first + row]);
  });
}

template <class T>
RowLosses CpuOps<T>::losses() const {
  return row_losses(rows_.rows, {work_->head.states, tokens()});
}

template class CpuOps<float>;
template class CpuOps<bf16>;
#define NC_FROM(T, From)                                                                                     \
  template void CpuOps<T>::norm(const From*, size_t, size_t, const float*, const NormSpec&, T*, Seen);       \
  template void CpuOps<T>::turn_heads(const From*, size_t, size_t, size_t, const HeadNorm*, const RopeSpec*, \
                                      size_t, T*)
NC_FROM(float, float);
NC_FROM(bf16, float);
NC_FROM(bf16, bf16);
#undef NC_FROM
#define NC_TO(T, To) \
  template void CpuOps<T>::copy_columns(const float*, size_t, size_t, const ColumnBlocks&, To*, size_t)
NC_TO(float, float);
NC_TO(bf16, float);
NC_TO(bf16, bf16);
#undef NC_TO

}  // namespace nibblecast
