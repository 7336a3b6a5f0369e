#include "model/families/deepseek_v4/checks.h"

#include "base/error.h"
#include "model/families/deepseek_v4/tensors.h"
#include "ops/hyper_connection.h"

namespace nibblecast {

void check_forward_config(const DeepseekV4Config& config) {
  if (config.hc_mult <= kMaxHyperStreams) return;
  throw Error(ErrorKind::kUnsupported, {}, "the forward pass takes few residual streams",
              {.expected = "hc_mult up to " + std::to_string(kMaxHyperStreams),
               .found = std::to_string(config.hc_mult)});
}

void check_cuda_config(const DeepseekV4Config& config) {
  const auto check = [](const char* name, uint64_t value, uint64_t most, uint64_t step) {
    if (value <= most && value % step == 0) return;
    throw Error(ErrorKind::kUnsupported, {}, "the kernels for GPUs do not take this model",
                {.expected = std::string(name) + " up to " + std::to_string(most) +
                             (step == 1 ? "" : ", a multiple of " + std::to_string(step)),
                 .found = std::to_string(value),
                 .hint = "use --device cpu"});
  };
  // ops/attention_cuda.h, indexer_cuda.h, router_cuda.h
  check("head_dim", config.head_dim, 512, 16);
  check("index_head_dim", config.index_head_dim, 128, 16);
  check("n_routed_experts", config.n_routed_experts, 1024, 1);
  check("num_experts_per_tok", config.num_experts_per_tok, 32, 1);
}

void check_expert(const DeepseekV4Config& config, uint64_t layer, uint64_t expert,
                  const StoredExpert& weights) {
  const size_t width = config.hidden_size, inner = config.moe_intermediate_size;
  check_shape(expert_module(layer, expert, 1), weights.w1, inner, width);
  check_shape(expert_module(layer, expert, 2), weights.w2, width, inner);
  check_shape(expert_module(layer, expert, 3), weights.w3, inner, width);
}

void refuse_nan_entry(const std::string& module) {
  throw Error(ErrorKind::kBadInput, {.tensor = module}, "scores an entry NaN",
              {.hint = "a weight is NaN or far too large; is the checkpoint damaged?"});
}

void refuse_expert(const std::string& tensor, uint64_t experts, int64_t found, int32_t token_id) {
  throw Error(ErrorKind::kBadInput, {.tensor = tensor}, "names an expert that does not exist",
              {.expected = "0 to " + std::to_string(experts - 1),
               .found = std::to_string(found) + " for token " + std::to_string(token_id)});
}

}  // namespace nibblecast
