// model/decoder/cuda_ops.h - what the blocks of a decoder are computed with, on a CUDA device: the members
// of CpuOps (model/decoder/cpu_ops.h), with its results within the rounding of products and of p in
// attention, which are summed in another order. Results are the same in every run, with any device memory.
// Only in builds with CUDA.
//
// Two streams: weights cross the bus on `copying`, everything else happens on `computing`, in the order of
// calls. Copies run ahead of the computation as far as there are slots, from one layer into the next; the
// host waits for a layer's routing and for room.
#pragma once

#include <span>
#include <vector>

#include "base/cuda.h"
#include "base/cuda_owners.h"
#include "model/cuda_slots.h"
#include "model/decoder/cuda_blocks.h"
#include "model/decoder/cuda_profile.h"
#include "model/decoder/cuda_readback.h"
#include "model/decoder/cuda_weights.h"
#include "model/decoder/findings.h"
#include "model/decoder/weights.h"
#include "model/dense_tensors.h"
#include "model/embedding.h"
#include "ops/amax_cuda.h"
#include "ops/delta_net_cuda.h"
#include "ops/gates_cuda.h"
#include "ops/gqa_cuda.h"
#include "ops/heads_cuda.h"
#include "ops/matmul_cuda.h"

namespace nibblecast {

template <class T>
class CudaOps {
 public:
  using Element = T;
  using Matrix = CudaMatrix<T>;
  using Seen = DeviceAmax;
  static constexpr DecoderSizes kSizes = kCudaSizes;

  CudaOps(const Model& model, TokenRows rows, const ForwardDevice& where);

  size_t tokens() const { return rows_.ids.size(); }
  std::span<const RowGroup> groups() const { return groups_.groups(); }
  const ResidualBuffers<T>& residual() const { return *blocks_.residual; }
  const WorkBuffers<T>& work() const { return *blocks_.work; }
  Seen seen(size_t finding) { return blocks_.tokens->findings + finding; }

  T* load(size_t begin, size_t count);
  void store(size_t begin, size_t count, const T* x);
  void embed(const EmbeddingShape& shape, uint64_t first, uint64_t count, std::span<const std::byte> bytes);
  void read_residual(uint64_t begin, std::span<std::byte> bytes) const;
  void write_residual(uint64_t begin, std::span<const std::byte> bytes);

  void expect(DenseTensors& dense, const LayerTable& table, std::span<const Tensor> tensors,
              const TileSize& tiles) {
    weights_.expect(dense, table, tensors, tiles);
  }
  void send(std::byte* to, std::span<const std::byte> bytes) {
    profile_.send(copying_, to, bytes.data(), bytes.size());
  }
  void keep(const ForwardPass::Owner& owner) { owners_.add(copying_, owner); }
  void begin_weights() { weights_.begin(); }
  Matrix matrix(const StoredLinear& stored) { return weights_.matrix(stored); }
  const float* vector(const std::vector<float>& values) { return weights_.vector(values); }
  void end_weights() { weights_.end(); }

  template <class F>
  void compute(const F& f) {
    profile_.compute(computing_, f);
  }
  void begin_layer();
  std::optional<RoundedBlocks> rounded_blocks() const { return std::nullopt; }  // kernels do not count
  void watch(LayerWatch watch) { watch_ = std::move(watch); }
  void show_in_place() { in_place_ = true; }
  void show(LayerPart part, size_t first, size_t count, const float* values);
  void show_routing(const RoutingBuffers& routing, size_t top) const {
    if (watch_.routing) watch_.routing({routing.chosen, tokens() * top});
  }
  void set_tick(const ForwardPass::Tick&) {}  // calls do not last
  void report(size_t) {}
  void report_part(size_t, size_t) {}

  template <class From>
  void norm(const From* x, size_t count, size_t width, const float* weight, const NormSpec& spec, T* y,
            Seen seen);
  void product(const T* x, size_t count, const Linear<CudaOps>& linear, float* y);
  void product_rows(const T* x, size_t count, const Matrix& weight, size_t first, size_t rows, float* y) {
    multiply(x, count, {weight.values + first * weight.cols, rows, weight.cols}, y, rows);
  }
  void multiply(const T* x, size_t count, const Matrix& weight, float* y, size_t y_stride);
  template <class From>
  void turn_heads(const From* x, size_t count, size_t heads, size_t width, const HeadNorm* norm,
                  const RopeSpec* rope, size_t first, T* y);
  void spread_latent(const LatentHeads& shape, const float* expanded, const T* shared, size_t count, T* k,
                     T* v);
  void see(const T* x, size_t count, size_t width, Seen seen);
  static constexpr bool kHasMoments = false;
  void add_moments(size_t, const T*, size_t, size_t) {}
  void add(const float* y, size_t count, size_t width, T* x, Seen seen);
  template <class To>
  void copy_columns(const float* x, size_t count, size_t x_width, const ColumnBlocks& blocks, To* y,
                    size_t y_stride);
  void gate_elements(const T* gates, size_t count, size_t width, T* x, Seen seen);
  void gate_rows(const T* x, size_t count, const float* weight, float* y);
  void clear(float* values, size_t count);

  static size_t query_step(const GqaShape&) { return kGqaBlockQueries; }
  void attend(const GqaShape& shape, const RowGroup& group, size_t begin, size_t count, const T* q,
              const T* k, const T* v, const float* sinks, T* out, Seen seen);

  void delta_net(const DeltaNetShape& shape, const DeltaNetVectors& vectors, const RowGroup& group,
                 size_t begin, size_t count, Seen seen);

  void activate(const Activation& activation, const T* x, size_t count, size_t padded,
                const GatedMlp<CudaOps>& weights, const float* row_weights, T* act, Seen mid, Seen weighted);
  void route(const RouterSpec& router, const float* bias, const float* logits, size_t first, size_t count);
  void fetch_routing();
  bool routing_fetched() const { return routed_.done(); }
  const RoutingBuffers& routing();
  std::vector<uint32_t> routing_findings() const { return routed_.take(); }
  void send_lists();
  void gather(const uint32_t* tokens, size_t count, size_t padded, T* out);
  void scatter_add(const float* y, const uint32_t* tokens, const float* weights, size_t count);

  void add_mlp(uint64_t mlp, const StoredExpert& stored, const std::function<bool()>& ready,
               const RunMlp<CudaOps>& run);
  void finish_mlps(const RunMlp<CudaOps>& run);

  void fetch_findings();
  bool findings_fetched() const { return found_.done(); }
  std::vector<uint32_t> findings();

  void begin_head();
  void take_head(size_t slot, uint64_t held, std::span<const std::byte> bytes);
  template <class F>
  void with_head(size_t slot, size_t rows, bool wide, const F& f) {
    head_slots_[slot].copied.record(copying_);
    computing_.wait(head_slots_[slot].copied);
    compute(
        [&] { profile_.part(CudaProfile::kHead, computing_, [&] { f(head_matrix(slot, rows, wide)); }); });
    head_slots_[slot].used.record(computing_);
  }
  void add_logits(const float* logits, size_t count, size_t rows, uint64_t first_row, size_t first);
  void show(const LogitsBlock& block, const LogitsSink& sink);
  RowLosses losses();

  DeviceUse use() const { return profile_.use(); }

 private:
  struct Slot {
    CudaEvent copied, used;
  };
  GatedMlp<CudaOps> mlp_weights(const StoredExpert& stored);
  // x [count, width] where a linear takes its input from.
  const T* rounded(const T* x, size_t count, size_t width, float input_scale);
  CudaSlots::Compute computing(const RunMlp<CudaOps>& run);
  // y = x · weightᵀ + bias, rows of y `y_stride` apart.
  void biased(const T* x, size_t count, const Linear<CudaOps>& linear, float* y, size_t y_stride);
  Matrix head_matrix(size_t slot, size_t rows, bool wide) {
    if (wide) return weights_.matrix(F32View{work().head.stored[slot], rows, hidden_}, work().head.rows);
    return weights_.matrix(Bf16View{work().head.stored[slot], rows, hidden_}, work().head.rows);
  }
  template <class F>
  void part(CudaProfile::Part part, const F& f) {
    profile_.part(part, computing_, f);
  }

  const size_t hidden_;
  const size_t top_;  // the most experts of a token
  const TokenRows rows_;
  CudaStream computing_, copying_;
  CudaProducts products_;
  CudaProfile profile_;
  CudaBlocks<T> blocks_;
  CudaDenseWeights<T> weights_;
  CudaRowGroups groups_;
  CudaSlots slots_;
  LayerWatch watch_;
  bool in_place_ = false;
  DeviceBuffer rounded_;         // of the linear in progress; as large as the largest so far
  CudaReadback routed_, found_;  // findings up to the routing, and of the layer
  Slot head_slots_[2];
  CudaOwners owners_;  // destroyed first: waits for copies
};

}  // namespace nibblecast
