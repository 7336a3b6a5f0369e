// After the last layer, on a CUDA device: the streams become logits. For tests and measurements: buffers are
// made as they are needed.

#include "base/parallel.h"
#include "formats/stored_linear_cuda.h"
#include "model/deepseek_v4_cuda_state.h"
#include "model/deepseek_v4_head.h"

namespace nibblecast {
namespace {

// A matrix in host memory as T in device memory.
template <class T>
DeviceArray<T> uploaded(const StoredLinear& host, CudaStreamHandle stream) {
  Bf16View view = std::get<Bf16View>(host);
  DeviceArray<bf16> stored(view.rows * view.cols);
  DeviceArray<T> values(view.rows * view.cols);
  copy_async(stream, stored.data(), view.values, stored.size() * sizeof(bf16));
  view.values = stored.data();
  dequantize_rows_cuda<T>(stream, view, 0, view.rows, values.data(), view.cols);
  return values;
}

}  // namespace

template <class T>
std::vector<float> row_logits(CudaForwardState<T>& state, const HeadWeights& weights, size_t row) {
  const RowSpan& span = state.rows.at(row);
  const size_t width = state.config.hidden_size, streams_count = state.config.hc_mult;
  const size_t vocabulary = state.config.vocab_size, parts = kFnParts<T> * streams_count;
  const DeviceArray<T> head = uploaded<T>(weights.head, state.computing);
  const DeviceArray<float> fn = to_device(std::span(weights.hyper.fn)),
                           norm = to_device(std::span(weights.norm));
  const DeviceArray<float> base = to_device(std::span(weights.hyper.base)),
                           scale = to_device(std::span(weights.hyper.scale));
  const DeviceArray<T> split(kFnParts<T> * fn.size()), x(span.length * width),
      copied(state.memory.streams_resident ? 0 : span.length * state.stream_width());
  const DeviceArray<float> products(streams_count * span.length * parts), logits(span.length * vocabulary);
  const HyperConnectionView hyper{.streams = static_cast<uint32_t>(streams_count),
                                  .width = static_cast<uint32_t>(width),
                                  .eps = weights.hyper.eps,
                                  .norm_eps = weights.hyper.norm_eps,
                                  .base = base.data(),
                                  .scale = scale.data()};
  const T* const streams = state.load_streams(span.begin, span.length, copied.data());
  split_fn_cuda(state.computing, fn.data(), fn.size(), split.data());
  multiply_fn(state, streams, span.length, split.data(), parts, products.data());
  merge_streams_cuda(state.computing, hyper, streams, span.length, products.data(), norm.data(), x.data());
  state.product(x.data(), span.length, width, head.data(), vocabulary, logits.data());
  state.computing.synchronize();
  std::vector<float> result(logits.size());
  from_device(logits, std::span(result));
  return result;
}

template <class T>
std::vector<float> row_nll(CudaForwardState<T>& state, const HeadWeights& weights, size_t row) {
  const RowSpan& span = state.rows.at(row);
  const size_t vocabulary = state.config.vocab_size, predicted = span.length == 0 ? 0 : span.length - 1;
  const std::vector<float> logits = row_logits(state, weights, row);
  std::vector<float> result(predicted);
  parallel_for(predicted, [&](size_t i) {
    const size_t target = static_cast<size_t>(state.ids[span.begin + i + 1]);
    result[i] = negative_log_likelihood(logits.data() + i * vocabulary, vocabulary, target);
  });
  return result;
}

template std::vector<float> row_logits(CudaForwardState<float>&, const HeadWeights&, size_t);
template std::vector<float> row_logits(CudaForwardState<bf16>&, const HeadWeights&, size_t);
template std::vector<float> row_nll(CudaForwardState<float>&, const HeadWeights&, size_t);
template std::vector<float> row_nll(CudaForwardState<bf16>&, const HeadWeights&, size_t);

}  // namespace nibblecast
