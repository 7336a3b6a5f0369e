#include "model/deepseek_v4_cuda_routing.h"

#include <algorithm>

#include "model/deepseek_v4_checks.h"

namespace nibblecast {

CudaRouting::CudaRouting(size_t tokens, size_t experts, size_t top)
    : tokens_(tokens), top_(top), begin_(experts + 1), next_(experts) {
  Arena counting;
  lay_out(counting);
  block_ = pinned_buffer(counting.size_bytes());
  Arena arena(block_.data());
  lay_out(arena);
}

void CudaRouting::lay_out(Arena& arena) {
  chosen_ = arena.take<int32_t>(tokens_ * top_);
  weights_ = arena.take<float>(tokens_ * top_);
  list_tokens_ = arena.take<uint32_t>(tokens_ * top_);
  list_weights_ = arena.take<float>(tokens_ * top_);
  faults_ = arena.take<RouterFaults>(1);
}

template <class T>
void CudaRouting::fetch(CudaForwardState<T>& state) {
  const CudaTokens<T>& from = *state.tokens;
  copy_async(state.computing, chosen_, from.chosen, tokens_ * top_ * sizeof(int32_t));
  copy_async(state.computing, weights_, from.chosen_weights, tokens_ * top_ * sizeof(float));
  copy_async(state.computing, &faults_[0], state.finding(CudaFindings::kNanScore), sizeof(RouterFaults));
  fetched_.record(state.computing);
  ready_ = false;
}

template <class T>
void CudaRouting::make_lists(CudaForwardState<T>& state) {
  fetched_.synchronize();
  check_faults(state);
  std::fill(begin_.begin(), begin_.end(), 0);
  for (size_t i = 0; i < tokens_ * top_; ++i) ++begin_[static_cast<size_t>(chosen_[i]) + 1];
  for (size_t expert = 1; expert < begin_.size(); ++expert) begin_[expert] += begin_[expert - 1];
  std::copy(begin_.begin(), begin_.end() - 1, next_.begin());
  for (size_t i = 0; i < tokens_ * top_; ++i) {
    const size_t at = next_[static_cast<size_t>(chosen_[i])]++;
    list_tokens_[at] = static_cast<uint32_t>(i / top_);
    list_weights_[at] = weights_[i];
  }
  copy_async(state.computing, state.tokens->list_tokens, list_tokens_, tokens_ * top_ * sizeof(uint32_t));
  copy_async(state.computing, state.tokens->list_weights, list_weights_, tokens_ * top_ * sizeof(float));
  ready_ = true;
}

template <class T>
void CudaRouting::check_faults(const CudaForwardState<T>& state) const {
  if (faults_->nan_score != 0) refuse_nan_score(state.module("ffn.gate"));
  if (faults_->unknown_expert == 0) return;
  for (size_t i = 0; i < tokens_ * top_; ++i) {
    if (chosen_[i] < 0 || static_cast<size_t>(chosen_[i]) >= next_.size())
      refuse_expert(state.module("ffn.gate.tid2eid"), next_.size(), chosen_[i], state.ids[i / top_]);
  }
}

template void CudaRouting::fetch(CudaForwardState<float>&);
template void CudaRouting::fetch(CudaForwardState<bf16>&);
template void CudaRouting::make_lists(CudaForwardState<float>&);
template void CudaRouting::make_lists(CudaForwardState<bf16>&);

}  // namespace nibblecast
