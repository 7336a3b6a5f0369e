// model/decoder/cpu_ops.h - what the blocks of a decoder are computed with, on the CPU. A device D of
// another kind has the same members (model/decoder/cuda_ops.h); what they mean is said here.
//
// Rows of tokens are contiguous, [count, width]. T: float, nothing is rounded; bf16: what enters a product or
// is kept is rounded once, sums are FP32. `seen`, which may be null, gets the largest |y| of the real rows.
// An op is done, or on its way in the order of calls, when its call returns.
#pragma once

#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/decoder/findings.h"
#include "model/decoder/memory.h"
#include "model/decoder/weights.h"
#include "model/dense_tensors.h"
#include "model/embedding.h"
#include "model/forward_pass.h"
#include "model/token_rows.h"
#include "ops/amax.h"
#include "ops/delta_net.h"
#include "ops/gates.h"
#include "ops/gqa.h"
#include "ops/heads.h"
#include "ops/rope.h"
#include "ops/workspace.h"

namespace nibblecast {

template <class T>
class CpuOps {
 public:
  using Element = T;
  using Matrix = StoredLinear;  // [out, in]
  using Seen = Amax*;
  static constexpr DecoderSizes kSizes = kCpuSizes;
  static constexpr bool kHasMoments = true;

  CpuOps(const Model& model, TokenRows rows, const ForwardDevice&);

  // Tokens, and memory for what is computed of them.
  size_t tokens() const { return rows_.ids.size(); }
  std::span<const RowGroup> groups() const { return groups_; }
  const ResidualBuffers<T>& residual() const { return *residual_; }
  const WorkBuffers<T>& work() const { return *work_; }
  Seen seen(size_t finding) { return &findings_[finding]; }

  // The residual stream of tokens [begin, begin + count), where ops read and write it; after changes,
  // store().
  T* load(size_t begin, size_t) { return residual_->x + begin * hidden_; }
  void store(size_t, size_t, const T*) {}
  void embed(const EmbeddingShape& shape, uint64_t first, uint64_t count, std::span<const std::byte> bytes);
  void read_residual(uint64_t begin, std::span<std::byte> bytes) const;
  void write_residual(uint64_t begin, std::span<const std::byte> bytes);

  // A layer's dense tensors as they come, and its weights from them.
  void expect(DenseTensors& dense, const LayerTable&, std::span<const Tensor> tensors, const TileSize&) {
    dense.expect(tensors);
  }
  void send(std::byte*, std::span<const std::byte>) {}  // to where DenseTensors::take() says; here never
  void keep(const ForwardPass::Owner&) {}               // until what was sent is there
  void begin_weights() { vectors_.clear(); }
  Matrix matrix(const StoredLinear& stored) { return stored; }
  const float* vector(std::vector<float> values) { return vectors_.emplace_back(std::move(values)).data(); }
  void end_weights() {}  // the dense tensors are not read any more

  // f() computes; on a device of its own the time is taken.
  template <class F>
  void compute(const F& f) {
    f();
  }
  void begin_layer();  // no findings yet
  std::optional<RoundedBlocks> rounded_blocks() const { return rounded_blocks_.value(); }
  void set_tick(ForwardPass::Tick tick) { tick_ = std::move(tick); }
  // From here on show() and show_routing() show what they are given, if anybody looks.
  void show_in_place() {}  // nothing is copied
  void watch(LayerWatch watch) { watch_ = std::move(watch); }
  void show(LayerPart part, size_t first, size_t count, const float* values) const {
    if (watch_.part) watch_.part(part, first, count, hidden_, {.f32 = values});
  }
  void show_routing(const RoutingBuffers& routing, size_t top) const {
    if (watch_.routing) watch_.routing({routing.chosen, tokens() * top});
  }
  void report(size_t done_tokens) { report_part(std::min(done_tokens, tokens()), tokens()); }
  void report_part(size_t done, size_t of) {
    if (tick_) tick_(static_cast<double>(done) / static_cast<double>(of));
  }

  // y = norm(x); y may be x where From is T.
  template <class From>
  void norm(const From* x, size_t count, size_t width, const float* weight, const NormSpec& spec, T* y,
            Seen seen);
  // y [count, out] = x · weightᵀ + bias, x rounded first where the linear has an input_scale.
  void product(const T* x, size_t count, const Linear<CpuOps>& linear, float* y);
  // Without a bias: outputs [first, first + rows) to y [count, rows].
  void product_rows(const T* x, size_t count, const Matrix& weight, size_t first, size_t rows, float* y);
  // Without a bias, rows of y `y_stride` apart.
  void multiply(const T* x, size_t count, const Matrix& weight, float* y, size_t y_stride);
  // Heads of tokens from `first` on: normed, turned by their positions, rounded; norm and rope may be null.
  template <class From>
  void turn_heads(const From* x, size_t count, size_t heads, size_t width, const HeadNorm* norm,
                  const RopeSpec* rope, size_t first, T* y);
  // Keys and values of tokens' heads (ops/latent_heads.h).
  void spread_latent(const LatentHeads& shape, const float* expanded, const T* shared, size_t count, T* k,
                     T* v);
  void see(const T* x, size_t count, size_t width, Seen seen);
  // From measure_moments() on adds up the squares of an input's next tokens [count, width], from
  // measure_blocks() on counts its blocks. Of a device that has it.
  void measure_moments() { measures_moments_ = true; }
  void measure_blocks() { measures_blocks_ = true; }
  void add_moments(size_t finding, const T* x, size_t count, size_t width) {
    if (measures_moments_) moments_[finding].add(x, count, width);
    if (measures_blocks_) blocks_[LayerFinding::of_experts(finding)].add(x, count, width);
  }
  const MomentFindings& moments() const { return moments_; }  // of the layer; none unless they are measured
  const BlockFindings& blocks() const { return blocks_; }     // the same
  // x = round(x + y).
  void add(const float* y, size_t count, size_t width, T* x, Seen seen);
  // Columns of rows x [count, x_width] to rows of y, `y_stride` apart, rounded.
  template <class To>
  void copy_columns(const float* x, size_t count, size_t x_width, const ColumnBlocks& blocks, To* y,
                    size_t y_stride);
  // x = round(x * sigmoid(gates)) for rows [count, width]; y [count, D] *= sigmoid(x · weight).
  void gate_elements(const T* gates, size_t count, size_t width, T* x, Seen seen);
  void gate_rows(const T* x, size_t count, const float* weight, float* y);
  void clear(float* values, size_t count) { std::fill_n(values, count, 0.0f); }

  // Queries of a chunk begin at multiples of this in their row.
  static size_t query_step(const GqaShape& shape) { return gqa_block_queries(shape); }
  // Queries of tokens [begin, begin + count) of the group; keys and values of the group up to them.
  void attend(const GqaShape& shape, const RowGroup& group, size_t begin, size_t count, const T* q,
              const T* k, const T* v, const float* sinks, T* out, Seen seen);

  // Of tokens [begin, begin + count) of the group: work().delta_net.x, z, a and b to out.
  void delta_net(const DeltaNetShape& shape, const DeltaNetVectors& vectors, const RowGroup& group,
                 size_t begin, size_t count, Seen seen);

  // act [padded, I] = activation(gate(x), up(x)), x rounded with gate's and up's input_scale, which are one;
  // the largest |act| of each row times its weight to `weighted`.
  void activate(const Activation& activation, const T* x, size_t count, size_t padded,
                const GatedMlp<CpuOps>& weights, const float* row_weights, T* act, Seen mid, Seen weighted);
  // Experts and their weights of tokens from `first` on, to residual().routing.
  void route(const RouterSpec& router, const float* bias, const float* logits, size_t first, size_t count);
  void fetch_routing() {}  // begins to bring the choices, and what was found so far, to the host
  bool routing_fetched() const { return true; }
  const RoutingBuffers& routing() { return residual_->routing; }  // on the host; waits
  std::vector<uint32_t> routing_findings() { return findings(); }
  void send_lists() {}  // of routing() to where ops read them
  // out [padded, D]: the residual stream of tokens[0 .. count - 1], then zeros.
  void gather(const uint32_t* tokens, size_t count, size_t padded, T* out);
  // sum[tokens[i]] += y[i] * weights[i]
  void scatter_add(const float* y, const uint32_t* tokens, const float* weights, size_t count);

  // run(mlp, its weights) for an MLP that streams by: in the order of calls, once ready() says that nothing
  // has to be waited for, or room is short; at the latest in finish_mlps().
  void add_mlp(uint64_t mlp, const StoredExpert& stored, const std::function<bool()>&,
               const RunMlp<CpuOps>& run) {
    run(mlp, [&]() -> GatedMlp<CpuOps> {
      return {.gate = {stored.w1, nullptr, stored.in_scale},
              .up = {stored.w3, nullptr, stored.in_scale},
              .down = {stored.w2, nullptr, stored.mid_scale}};
    });
  }
  void finish_mlps(const RunMlp<CpuOps>&) {}

  void fetch_findings() {}  // begins to bring a layer's findings to the host
  bool findings_fetched() const { return true; }
  std::vector<uint32_t> findings() const;  // those fetched last; waits

  void begin_head();
  // The next bytes of a block of the head's rows, from `held` on in the slot.
  void take_head(size_t slot, uint64_t held, std::span<const std::byte> bytes);
  // `wide`: they are FP32.
  template <class F>
  void with_head(size_t slot, size_t rows, bool wide, const F& f) {
    if (wide)
      f(F32View{work_->head.stored[slot], rows, hidden_});
    else
      f(Bf16View{work_->head.stored[slot], rows, hidden_});
  }
  void add_logits(const float* logits, size_t count, size_t rows, uint64_t first_row, size_t first);
  void show(const LogitsBlock& block, const LogitsSink& sink) { sink(block); }
  RowLosses losses() const;

  DeviceUse use() const { return {}; }

 private:
  // What of a row is among tokens [begin, begin + count) of its group.
  struct RowPart {
    size_t row = 0;               // of all rows
    size_t first = 0, count = 0;  // tokens of the row
    size_t at = 0;                // the first one, in the chunk
  };
  std::vector<RowPart> parts_of(const RowGroup& group, size_t begin, size_t count) const;
  const Rope& rope(const RopeSpec& spec) const;
  // x [count, width] where a linear takes its input from.
  const T* rounded(const T* x, size_t count, size_t width, float input_scale);

  const size_t hidden_;
  const TokenRows rows_;
  const std::vector<RowGroup> groups_;
  const std::vector<RopeSpec> rope_specs_;
  std::vector<Rope> ropes_;
  Buffer residual_block_, work_block_;
  std::unique_ptr<ResidualBuffers<T>> residual_;
  std::unique_ptr<WorkBuffers<T>> work_;
  std::vector<Amax> findings_;
  MomentFindings moments_;
  bool measures_moments_ = false, measures_blocks_ = false;
  BlockFindings blocks_;
  std::deque<std::vector<float>> vectors_;
  ForwardPass::Tick tick_;
  LayerWatch watch_;
  Workspace<T> rounded_;  // of the linear in progress
  RoundedCounter rounded_blocks_;
};

}  // namespace nibblecast
