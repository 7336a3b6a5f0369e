// The second half of a layer on a CUDA device; as ffn.cpp. The shared expert comes first, while
// the routed ones are on their way: their outputs are added to its.

#include <algorithm>

#include "formats/stored_linear_cuda.h"
#include "model/families/deepseek_v4/cuda_state.h"
#include "ops/rows_cuda.h"
#include "ops/swiglu_cuda.h"

namespace nibblecast {
namespace {

// What the inputs of w1 and w3, and of w2, are rounded with; 0: they are not.
struct MlpScales {
  float in = 0, mid = 0;
};

// w1 above w3, and w2, dequantized to the expert buffers.
template <class T>
void dequantize(CudaForwardState<T>& state, const MlpWeights& weights) {
  const size_t width = state.config.hidden_size, inner = state.config.moe_intermediate_size;
  const CudaExpertBuffers<T>& buffers = *state.expert;
  state.timed(Part::kDequantize, [&] {
    dequantize_rows_cuda(state.computing, weights.w1, 0, inner, buffers.w13, width);
    dequantize_rows_cuda(state.computing, weights.w3, 0, inner, buffers.w13 + inner * width, width);
    dequantize_rows_cuda(state.computing, weights.w2, 0, width, buffers.w2, inner);
  });
}

// silu(x · w1ᵀ) * (x · w3ᵀ), clamped, times `row_weights` (null: 1), times w2ᵀ to y; of padded rows only
// `count` mean something. `scales`: of the inputs.
template <class T>
void run_mlp(CudaForwardState<T>& state, const T* x, size_t count, size_t padded, const MlpScales& scales,
             const float* row_weights, float* y, DeviceAmax unweighted, DeviceAmax weighted) {
  const size_t width = state.config.hidden_size, inner = state.config.moe_intermediate_size;
  const CudaExpertBuffers<T>& buffers = *state.expert;
  state.timed(Part::kExpertProducts, [&] {
    state.product(state.input(x, padded, width, scales.in), padded, width, buffers.w13, 2 * inner,
                  buffers.gate_up);
  });
  state.timed(Part::kExperts, [&] {
    swiglu_cuda(state.computing, buffers.gate_up, count, inner, static_cast<float>(state.config.swiglu_limit),
                row_weights, buffers.act, unweighted, weighted);
  });
  state.timed(Part::kExpertProducts, [&] {
    state.product(state.input(buffers.act, padded, inner, scales.mid), padded, inner, buffers.w2, width, y);
  });
}

}  // namespace

template <class T>
void run_router(CudaForwardState<T>& state, const CudaFfnWeights<T>& weights, const CudaGroup& group,
                const T* streams) {
  const size_t begin = group.rows.begin, count = group.rows.tokens, width = state.config.hidden_size;
  const size_t experts = state.config.n_routed_experts, top = state.config.num_experts_per_tok;
  CudaTokens<T>& tokens = *state.tokens;
  T* const x = tokens.x_ffn + begin * width;
  mix_and_norm(state, weights.hyper, weights.ffn_norm, streams, count, x, tokens.mixes + begin,
               state.finding(CudaFindings::kFfnX));
  state.timed(Part::kExpertProducts,
              [&] { state.product(x, count, width, weights.gate, experts, state.attention->logits); });
  state.timed(Part::kExperts, [&] {
    static_assert(CudaFindings::kUnknownExpert == CudaFindings::kNanScore + 1);
    route_cuda(state.computing, weights.router, state.attention->logits, tokens.ids + begin, count,
               tokens.chosen + begin * top, tokens.chosen_weights + begin * top,
               reinterpret_cast<RouterFaults*>(state.finding(CudaFindings::kNanScore)));
  });
}

template <class T>
void run_shared_expert(CudaForwardState<T>& state, const MlpWeights& weights) {
  const size_t width = state.config.hidden_size;
  const DeviceAmax seen = state.finding(CudaFindings::kSharedAct);
  const MlpScales scales{state.input_scale("ffn.shared_experts.w1"),
                         state.input_scale("ffn.shared_experts.w2")};
  dequantize(state, weights);
  for (size_t begin = 0; begin < state.token_count(); begin += kCudaExpertTokens) {
    const size_t count = std::min<size_t>(kCudaExpertTokens, state.token_count() - begin);
    run_mlp(state, state.tokens->x_ffn + begin * width, count, count, scales, nullptr,
            state.tokens->sum + begin * width, seen, seen);
  }
}

template <class T>
void run_expert(CudaForwardState<T>& state, uint64_t expert, const StoredExpert& weights, size_t list_begin,
                size_t count, CudaEvent& dequantized) {
  const size_t width = state.config.hidden_size;
  const CudaExpertBuffers<T>& buffers = *state.expert;
  if (count > 0) dequantize(state, {weights.w1, weights.w2, weights.w3});
  dequantized.record(state.computing);
  for (size_t done = 0; done < count; done += kCudaExpertTokens) {
    const size_t rows = std::min<size_t>(kCudaExpertTokens, count - done);
    const size_t padded = (rows + kCudaRowStep - 1) / kCudaRowStep * kCudaRowStep;
    const uint32_t* list = state.tokens->list_tokens + list_begin + done;
    state.timed(Part::kExperts, [&] {
      gather_rows_cuda(state.computing, state.tokens->x_ffn, width, list, rows, buffers.x,
                       state.finding(state.findings_at.w13(expert)));
    });
    run_mlp(state, buffers.x, rows, padded, {weights.in_scale, weights.mid_scale},
            state.tokens->list_weights + list_begin + done, buffers.y,
            state.finding(state.findings_at.w2(expert)),
            state.finding(state.findings_at.w2_weighted(expert)));
    state.timed(Part::kExperts, [&] {
      scatter_add_rows_cuda(state.computing, buffers.y, width, list, rows, state.tokens->sum);
    });
  }
}

template <class T>
void finish_ffn(CudaForwardState<T>& state) {
  const size_t width = state.config.hidden_size;
  const CudaExpertBuffers<T>& buffers = *state.expert;
  for (size_t begin = 0; begin < state.token_count(); begin += kCudaExpertTokens) {
    const size_t count = std::min<size_t>(kCudaExpertTokens, state.token_count() - begin);
    T* const streams = state.load_streams(begin, count, buffers.streams);
    state.timed(Part::kSpread, [&] {
      round_cuda(state.computing, state.tokens->sum + begin * width, count * width, buffers.x);
      state.show(LayerPart::kFfn, begin, count, buffers.x);
      spread_to_streams_cuda(state.computing, state.tokens->mixes + begin, buffers.x, count,
                             state.config.hc_mult, width, streams, state.finding(CudaFindings::kFfnStreams));
    });
    state.store_streams(begin, count, streams);
  }
}

template void run_router(CudaForwardState<float>&, const CudaFfnWeights<float>&, const CudaGroup&,
                         const float*);
template void run_router(CudaForwardState<bf16>&, const CudaFfnWeights<bf16>&, const CudaGroup&, const bf16*);
template void run_shared_expert(CudaForwardState<float>&, const MlpWeights&);
template void run_shared_expert(CudaForwardState<bf16>&, const MlpWeights&);
template void run_expert(CudaForwardState<float>&, uint64_t, const StoredExpert&, size_t, size_t, CudaEvent&);
template void run_expert(CudaForwardState<bf16>&, uint64_t, const StoredExpert&, size_t, size_t, CudaEvent&);
template void finish_ffn(CudaForwardState<float>&);
template void finish_ffn(CudaForwardState<bf16>&);

}  // namespace nibblecast
