#include "model/families/deepseek_v4/cuda_findings.h"

#include <bit>

#include "model/families/deepseek_v4/checks.h"
#include "model/families/deepseek_v4/family.h"

namespace nibblecast {

CudaLayerFindings::CudaLayerFindings(const CudaFindings& at)
    : at_(at),
      block_(pinned_buffer(at.count() * sizeof(uint32_t))),
      bits_(reinterpret_cast<const uint32_t*>(block_.data())) {}

template <class T>
void CudaLayerFindings::fetch(CudaForwardState<T>& state, const CudaRouting& routing) {
  copy_async(state.computing, block_.data(), state.tokens->findings, block_.size());
  fetched_.record(state.computing);
  layer_ = state.layer;
  tokens_ = routing.counts();
}

LayerAmax CudaLayerFindings::layer_amax() const {
  fetched_.synchronize();
  LayerAmax amax;
  amax.layer = layer_;
  const auto record = [&](const char* tap, const std::string& name, size_t index) {
    check_input(module(name), finding(index));
    amax.taps[tap] = {finding(index)};
  };
  if (bits_[CudaFindings::kNanEntry] != 0) refuse_nan_entry(module("attn.indexer"));
  record(v4_tap::kAttentionIn, "attn.wq_a", CudaFindings::kAttentionX);
  record(v4_tap::kQueryRank, "attn.wq_b", CudaFindings::kQueriesRank);
  record(v4_tap::kAttentionOut, "attn.wo_a", CudaFindings::kAttentionOut);
  record(v4_tap::kOutRank, "attn.wo_b", CudaFindings::kOutRank);
  check_streams(module("hc_attn"), finding(CudaFindings::kAttentionStreams));
  record(v4_tap::kFfnIn, "ffn.gate", CudaFindings::kFfnX);
  record_experts(amax);
  record(v4_tap::kSharedMid, "ffn.shared_experts.w2", CudaFindings::kSharedAct);
  check_streams(module("hc_ffn"), finding(CudaFindings::kFfnStreams));
  return amax;
}

void CudaLayerFindings::record_experts(LayerAmax& amax) const {
  for (size_t expert = 0; expert < at_.experts; ++expert) {
    const std::string name = module("ffn.experts." + std::to_string(expert));
    const float in = finding(at_.w13(expert)), mid = finding(at_.w2(expert)),
                weighted = finding(at_.w2_weighted(expert));
    check_input(name + ".w1", in);
    check_input(name + ".w2", mid);
    check_input(name + ".w2", weighted);
    amax.taps[v4_tap::kExpertsIn].push_back(in);
    amax.taps[v4_tap::kExpertsMid].push_back(mid);
    amax.taps[weighted_tap(v4_tap::kExpertsMid)].push_back(weighted);
  }
  amax.tokens = tokens_;
}

std::string CudaLayerFindings::module(const std::string& name) const { return layer_module(layer_, name); }

float CudaLayerFindings::finding(size_t index) const { return std::bit_cast<float>(bits_[index]); }

template void CudaLayerFindings::fetch(CudaForwardState<float>&, const CudaRouting&);
template void CudaLayerFindings::fetch(CudaForwardState<bf16>&, const CudaRouting&);

}  // namespace nibblecast
