#include "model/families/deepseek_v4/cuda_routing.h"

#include "model/families/deepseek_v4/checks.h"

namespace nibblecast {

CudaRouting::CudaRouting(size_t tokens, size_t experts, size_t top)
    : tokens_(tokens), experts_(experts), top_(top) {
  Arena counting;
  lay_out(counting);
  block_ = pinned_buffer(counting.size_bytes());
  Arena arena(block_.data());
  lay_out(arena);
}

void CudaRouting::lay_out(Arena& arena) {
  host_ = RoutingBuffers(arena, tokens_ * top_);
  faults_ = arena.take<RouterFaults>(1);
}

template <class T>
void CudaRouting::fetch(CudaForwardState<T>& state) {
  const CudaTokens<T>& from = *state.tokens;
  copy_async(state.computing, host_.chosen, from.chosen, tokens_ * top_ * sizeof(int32_t));
  copy_async(state.computing, host_.weights, from.chosen_weights, tokens_ * top_ * sizeof(float));
  copy_async(state.computing, &faults_[0], state.finding(CudaFindings::kNanScore), sizeof(RouterFaults));
  fetched_.record(state.computing);
  ready_ = false;
}

template <class T>
void CudaRouting::make_lists(CudaForwardState<T>& state) {
  fetched_.synchronize();
  check_faults(state);
  lists_.make(host_, tokens_, top_, experts_);
  copy_async(state.computing, state.tokens->list_tokens, host_.list_tokens,
             tokens_ * top_ * sizeof(uint32_t));
  copy_async(state.computing, state.tokens->list_weights, host_.list_weights, tokens_ * top_ * sizeof(float));
  ready_ = true;
}

template <class T>
void CudaRouting::check_faults(const CudaForwardState<T>& state) const {
  if (faults_->nan_score != 0) refuse_nan_score(state.module("ffn.gate"));
  if (faults_->unknown_expert == 0) return;
  for (size_t i = 0; i < tokens_ * top_; ++i) {
    if (host_.chosen[i] < 0 || static_cast<size_t>(host_.chosen[i]) >= experts_)
      refuse_expert(state.module("ffn.gate.tid2eid"), experts_, host_.chosen[i], state.ids[i / top_]);
  }
}

template void CudaRouting::fetch(CudaForwardState<float>&);
template void CudaRouting::fetch(CudaForwardState<bf16>&);
template void CudaRouting::make_lists(CudaForwardState<float>&);
template void CudaRouting::make_lists(CudaForwardState<bf16>&);

}  // namespace nibblecast
