#include "model/deepseek_v4_cuda_findings.h"

#include <bit>

#include "model/deepseek_v4_checks.h"

namespace nibblecast {

CudaLayerFindings::CudaLayerFindings(const DeepseekV4Config& config, const CudaFindings& at)
    : config_(config),
      at_(at),
      block_(pinned_buffer(at.count() * sizeof(uint32_t))),
      bits_(reinterpret_cast<const uint32_t*>(block_.data())) {}

template <class T>
void CudaLayerFindings::fetch(CudaForwardState<T>& state, const CudaRouting& routing) {
  copy_async(state.computing, block_.data(), state.tokens->findings, block_.size());
  fetched_.record(state.computing);
  layer_ = state.layer;
  tokens_.clear();
  for (size_t expert = 0; expert < at_.experts; ++expert)
    tokens_.push_back(static_cast<int64_t>(routing.count(expert)));
}

LayerAmax CudaLayerFindings::layer_amax() const {
  fetched_.synchronize();
  LayerAmax amax;
  amax.layer = layer_;
  const uint64_t ratio = config_.compress_ratios[layer_];
  const auto record = [&](const std::string& name, size_t index) {
    const std::string full_name = module(name);
    check_input(full_name, finding(index));
    amax.linears[full_name] = finding(index);
  };
  if (bits_[CudaFindings::kNanEntry] != 0) refuse_nan_entry(module("attn.indexer"));
  for (const char* name : {"attn.wq_a", "attn.wkv"}) record(name, CudaFindings::kAttentionX);
  record("attn.wq_b", CudaFindings::kQueriesRank);
  if (ratio != 0) {
    for (const char* name : {"attn.compressor.wkv", "attn.compressor.wgate"})
      record(name, CudaFindings::kAttentionX);
  }
  if (ratio == 4) {
    record("attn.indexer.wq_b", CudaFindings::kQueriesRank);
    for (const char* name :
         {"attn.indexer.weights_proj", "attn.indexer.compressor.wkv", "attn.indexer.compressor.wgate"}) {
      record(name, CudaFindings::kAttentionX);
    }
  }
  record("attn.wo_a", CudaFindings::kAttentionOut);
  record("attn.wo_b", CudaFindings::kOutRank);
  check_streams(module("hc_attn"), finding(CudaFindings::kAttentionStreams));
  for (const char* name : {"ffn.gate", "ffn.shared_experts.w1", "ffn.shared_experts.w3"})
    record(name, CudaFindings::kFfnX);
  record_experts(amax.experts);
  record("ffn.shared_experts.w2", CudaFindings::kSharedAct);
  check_streams(module("hc_ffn"), finding(CudaFindings::kFfnStreams));
  return amax;
}

void CudaLayerFindings::record_experts(ExpertAmax& experts) const {
  for (size_t expert = 0; expert < at_.experts; ++expert) {
    const std::string name = module("ffn.experts." + std::to_string(expert));
    const float w13 = finding(at_.w13(expert)), w2 = finding(at_.w2(expert)),
                weighted = finding(at_.w2_weighted(expert));
    check_input(name + ".w1", w13);
    check_input(name + ".w2", w2);
    check_input(name + ".w2", weighted);
    experts.w13.push_back(w13);
    experts.w2.push_back(w2);
    experts.w2_weighted.push_back(weighted);
  }
  experts.tokens = tokens_;
}

std::string CudaLayerFindings::module(const std::string& name) const { return layer_module(layer_, name); }

float CudaLayerFindings::finding(size_t index) const { return std::bit_cast<float>(bits_[index]); }

template void CudaLayerFindings::fetch(CudaForwardState<float>&, const CudaRouting&);
template void CudaLayerFindings::fetch(CudaForwardState<bf16>&, const CudaRouting&);

}  // namespace nibblecast
