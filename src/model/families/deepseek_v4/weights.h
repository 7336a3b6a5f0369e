// model/families/deepseek_v4/weights.h - the dense tensors of one layer, checked and given their meaning. Large
// weights stay views into what the caller holds; vectors and the small FP32 matrices are copied.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/families/deepseek_v4/forward.h"
#include "ops/compressor.h"
#include "ops/hyper_connection.h"
#include "ops/weight.h"

namespace nibblecast {

struct CompressorWeights {
  CompressorShape shape;
  WeightView wkv, wgate;
  std::vector<float> ape, norm;
};

struct IndexerWeights {
  WeightView wq_b, weights_proj;
  CompressorWeights compressor;
};

struct AttentionWeights {
  HyperConnection hyper;
  std::vector<float> attn_norm, q_norm, kv_norm, sinks;
  WeightView wq_a, wq_b, wkv, wo_a, wo_b;
  std::optional<CompressorWeights> compressor;  // CSA and HCA
  std::optional<IndexerWeights> indexer;        // CSA
};

struct MlpWeights {
  WeightView w1, w2, w3;
  float in_scale = 0, mid_scale = 0;  // as StoredExpert's
};

struct FfnWeights {
  HyperConnection hyper;
  std::vector<float> ffn_norm;
  WeightView gate;
  std::vector<float> bias;       // [E]; empty in hash layers
  std::vector<int64_t> tid2eid;  // [V, K]; empty in other layers
  MlpWeights shared;
};

// Each refuses (kBadInput, naming the tensor) what is missing or not as tensors.h has it.
AttentionWeights attention_weights(const DeepseekV4Config& config, uint64_t layer,
                                   const StoredTensors& tensors);
FfnWeights ffn_weights(const DeepseekV4Config& config, uint64_t layer, const StoredTensors& tensors);

// What comes before head.weight.
struct HeadWeights {
  HyperConnection hyper;
  std::vector<float> norm;
};
HeadWeights head_weights(const DeepseekV4Config& config, const StoredTensors& tensors);

}  // namespace nibblecast
