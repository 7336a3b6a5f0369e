#include "model/families/deepseek_v4/cuda_dense.h"

#include <algorithm>

#include "formats/stored_linear_cuda.h"

namespace nibblecast {
namespace {

template <class T>
class WeightLoader {
 public:
  explicit WeightLoader(CudaForwardState<T>& state)
      : state_(state),
        host_(state.host_vectors.data()),
        vectors_(state.vector_block.data()),
        weights_(state.weight_block.data()) {}

  CudaAttentionWeights<T> load(const AttentionWeights& from) {
    CudaAttentionWeights<T> to{.hyper = hyper(from.hyper),
                               .attn_norm = vector(from.attn_norm),
                               .q_norm = vector(from.q_norm),
                               .kv_norm = vector(from.kv_norm),
                               .sinks = vector(from.sinks)};
    if (from.compressor) to.compressor = compressor(*from.compressor);
    if (from.indexer) to.index_compressor = compressor(from.indexer->compressor);
    send_vectors();
    split(to.hyper, from.hyper);
    to.wq_a = matrix(from.wq_a);
    to.wq_b = matrix(from.wq_b);
    to.wkv = matrix(from.wkv);
    to.wo_a = matrix(from.wo_a);
    to.wo_b = matrix(from.wo_b);
    if (from.compressor) read(*from.compressor, *to.compressor);
    if (from.indexer) {
      read(from.indexer->compressor, *to.index_compressor);
      to.index_wq_b = matrix(from.indexer->wq_b);
      to.index_weights = matrix(from.indexer->weights_proj);
    }
    return to;
  }

  CudaFfnWeights<T> load(const FfnWeights& from) {
    const DeepseekV4Config& config = state_.config;
    CudaFfnWeights<T> to{.hyper = hyper(from.hyper), .ffn_norm = vector(from.ffn_norm)};
    to.router = {.experts = static_cast<uint32_t>(config.n_routed_experts),
                 .top = static_cast<uint32_t>(config.num_experts_per_tok),
                 .scaling = static_cast<float>(config.routed_scaling_factor),
                 .bias = from.bias.empty() ? nullptr : vector(from.bias),
                 .tid2eid = from.tid2eid.empty() ? nullptr : vector(from.tid2eid)};
    to.shared = from.shared;
    send_vectors();
    split(to.hyper, from.hyper);
    to.gate = matrix(from.gate);
    return to;
  }

 private:
  // To the staging memory; the device's address of what send_vectors() will bring there.
  template <class V>
  const V* vector(const std::vector<V>& values) {
    V* const host = host_.take<V>(values.size());
    std::copy(values.begin(), values.end(), host);
    return vectors_.take<V>(values.size());
  }
  void send_vectors() {
    const uint64_t end = host_.mark();
    copy_async(state_.computing, state_.vector_block.data() + sent_, state_.host_vectors.data() + sent_,
               end - sent_);
    sent_ = end;
  }

  CudaHyper<T> hyper(const HyperConnection& from) {
    CudaHyper<T> to;
    to.view = {.streams = static_cast<uint32_t>(from.streams),
               .width = static_cast<uint32_t>(from.width),
               .sinkhorn_iterations = static_cast<uint32_t>(from.sinkhorn_iterations),
               .eps = from.eps,
               .norm_eps = from.norm_eps,
               .base = vector(from.base),
               .scale = vector(from.scale)};
    fn_ = vector(from.fn);
    return to;
  }
  void split(CudaHyper<T>& to, const HyperConnection& from) {
    T* const parts = weights_.take<T>(kFnParts<T> * from.fn.size());
    split_fn_cuda(state_.computing, fn_, from.fn.size(), parts);
    to.fn = parts;
  }

  CudaCompressor compressor(const CompressorWeights& from) {
    CudaCompressor to;
    to.view = {.shape = from.shape,
               .ape = vector(from.ape),
               .norm = vector(from.norm),
               .eps = static_cast<float>(state_.config.rms_norm_eps),
               .rope = state_.compress_rope};
    return to;
  }
  void read(const CompressorWeights& from, CudaCompressor& to) {
    to.wkv = matrix(from.wkv);
    to.wgate = matrix(from.wgate);
  }

  // In T; as stored, where that is T.
  const T* matrix(const StoredLinear& stored) {
    if constexpr (std::is_same_v<T, bf16>) {
      if (const auto* view = std::get_if<Bf16View>(&stored)) return static_cast<const bf16*>(view->values);
    }
    const size_t rows = rows_of(stored), cols = cols_of(stored);
    T* const to = weights_.take<T>(rows * cols);
    state_.timed(Part::kDequantize,
                 [&] { dequantize_rows_cuda(state_.computing, stored, 0, rows, to, cols); });
    return to;
  }

  CudaForwardState<T>& state_;
  Arena host_, vectors_, weights_;
  uint64_t sent_ = 0;
  const float* fn_ = nullptr;
};

}  // namespace

bool stays_on_device(const Tensor& tensor) {
  const bool matrix = tensor.shape.size() == 2,
             scale = tensor.name.ends_with("scale") || tensor.name.ends_with("scale_inv");
  return matrix && (dtype_bytes(tensor.dtype) <= sizeof(bf16) || scale);
}

template <class T>
CudaLayerWeights<T> load_weights(CudaForwardState<T>& state, const AttentionWeights& attention,
                                 const FfnWeights& ffn) {
  WeightLoader<T> loader(state);
  CudaLayerWeights<T> weights;
  weights.attention = loader.load(attention);
  weights.ffn = loader.load(ffn);
  return weights;
}

template CudaLayerWeights<float> load_weights(CudaForwardState<float>&, const AttentionWeights&,
                                              const FfnWeights&);
template CudaLayerWeights<bf16> load_weights(CudaForwardState<bf16>&, const AttentionWeights&,
                                             const FfnWeights&);

}  // namespace nibblecast
