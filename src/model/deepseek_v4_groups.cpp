#include "model/deepseek_v4_groups.h"

#include "model/deepseek_v4_tensors.h"

namespace nibblecast {

std::vector<std::vector<std::string>> fused_groups(const DeepseekV4Config& config, uint64_t layer) {
  const std::string attn = "layers." + std::to_string(layer) + ".attn.";
  const std::string ffn = "layers." + std::to_string(layer) + ".ffn.";
  const uint64_t ratio = config.compress_ratios.at(layer);
  std::vector<std::vector<std::string>> groups = {{attn + "wq_a", attn + "wkv"}};
  if (ratio != 0) {
    for (const char* name : {"compressor.wkv", "compressor.wgate"}) groups[0].push_back(attn + name);
  }
  if (ratio == 4) {
    for (const char* name : {"indexer.compressor.wkv", "indexer.compressor.wgate", "indexer.weights_proj"})
      groups[0].push_back(attn + name);
    groups.push_back({attn + "wq_b", attn + "indexer.wq_b"});
  }
  groups.push_back({ffn + "shared_experts.w1", ffn + "shared_experts.w3"});
  for (uint64_t expert = 0; expert < config.n_routed_experts; ++expert)
    groups.push_back({expert_module(layer, expert, 1), expert_module(layer, expert, 3)});
  return groups;
}

}  // namespace nibblecast
