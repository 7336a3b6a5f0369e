#include "model/decoder/checks.h"

#include <string>

#include "base/error.h"
#include "model/forward_checks.h"
#include "ops/delta_net.h"

namespace nibblecast {
namespace {

void check_cuda_number(const char* name, uint64_t value, uint64_t most, uint64_t step) {
  if (value <= most && value % step == 0) return;
  throw Error(ErrorKind::kUnsupported, {}, "the kernels for GPUs do not take this model",
              {.expected = std::string(name) + (most == UINT64_MAX ? "" : " up to " + std::to_string(most)) +
                           (step == 1 ? "" : ", a multiple of " + std::to_string(step)),
               .found = std::to_string(value),
               .hint = "use --device cpu"});
}

// Strides of products are multiples of 16 bytes (ops/matmul_cuda.h).
void check_cuda_width(const char* name, uint64_t value) { check_cuda_number(name, value, UINT64_MAX, 8); }

// ops/gqa_cuda.h
void check_cuda_mixer(const GqaSpec& gqa) { check_cuda_number("head_dim", gqa.width, 512, 8); }

void check_cuda_mixer(const MlaSpec& mla) {
  check_cuda_number("qk_nope_head_dim + qk_rope_head_dim", mla.heads.key_width(), 512, 8);
  check_cuda_number("v_head_dim", mla.heads.value, 512, 8);
  check_cuda_width("qk_rope_head_dim", mla.heads.shared);
  check_cuda_width("q_lora_rank", mla.q_rank);
  check_cuda_width("kv_lora_rank", mla.kv_rank);
}

// ops/delta_net_cuda.h
void check_cuda_mixer(const DeltaNetSpec& net) {
  check_cuda_number("linear_key_head_dim", net.shape.key_width, kDeltaNetMostKeyWidth, 1);
  check_cuda_width("linear_value_head_dim * linear_num_value_heads", net.shape.values());
  check_cuda_number("linear_num_value_heads", net.shape.value_heads, UINT64_MAX, 4);
}

}  // namespace

EmbeddingShape decoder_embedding(const Model& model) {
  const DecoderSpec& spec = std::get<DecoderSpec>(model.spec);
  const WeightModule* const module = model.table.globals.find({.role = Role::kEmbedding});
  if (module == nullptr)
    throw Error(ErrorKind::kInternal, {}, "a model's table has no embedding", {.found = model.family});
  return {.name = module->name + ".weight", .vocabulary = spec.vocab, .width = spec.hidden};
}

void check_decoder(const Model& model) {
  for (const DecoderLayer& layer : std::get<DecoderSpec>(model.spec).layers) {
    const MoeSpec* const moe = std::get_if<MoeSpec>(&layer.ffn);
    if (moe == nullptr || !moe->expert.bias) continue;
    throw Error(ErrorKind::kUnsupported, {}, "the forward pass takes no biases of routed experts",
                {.found = model.model_type});
  }
}

void check_cuda_decoder(const DecoderSpec& spec) {
  check_cuda_width("hidden_size", spec.hidden);
  for (const DecoderLayer& layer : spec.layers) {
    std::visit([](const auto& mixer) { check_cuda_mixer(mixer); }, layer.mixer);
    if (const auto* mlp = std::get_if<MlpSpec>(&layer.ffn)) {
      check_cuda_width("intermediate_size", mlp->width);
      continue;
    }
    const MoeSpec& moe = std::get<MoeSpec>(layer.ffn);
    check_cuda_width("moe_intermediate_size", moe.expert.width);
    if (moe.shared) check_cuda_width("the shared expert's size", moe.shared->width);
    check_cuda_number("experts", moe.router.experts, 1024, 4);  // ops/router_cuda.h
    check_cuda_number("experts of a token", moe.router.top, 32, 1);
    check_cuda_number("groups of experts", moe.router.groups, 32, 1);
  }
}

void check_mlp(const Model& model, uint64_t layer, uint64_t mlp, const StoredExpert& weights) {
  const DecoderSpec& spec = std::get<DecoderSpec>(model.spec);
  const LayerTable& table = model.table.layers[layer];
  const auto* const moe = std::get_if<MoeSpec>(&spec.layers[layer].ffn);
  const MlpSpec& shape = moe == nullptr ? std::get<MlpSpec>(spec.layers[layer].ffn) : moe->expert;
  const auto check = [&](Role role, const StoredLinear& weight, uint64_t rows, uint64_t cols) {
    const WeightModule* const module = table.find({.layer = static_cast<int32_t>(layer),
                                                   .expert = moe == nullptr ? -1 : static_cast<int32_t>(mlp),
                                                   .role = role});
    check_shape(module == nullptr ? std::string() : module->name, weight, rows, cols);
  };
  if (shape.activation.gated()) check(Role::kGate, weights.w1, shape.width, spec.hidden);
  check(Role::kDown, weights.w2, spec.hidden, shape.width);
  check(Role::kUp, weights.w3, shape.width, spec.hidden);
}

}  // namespace nibblecast
