// plan/plan.h - the Plan: everything a run will do, as a value, known before the first byte is written.
//
// `make_plan` reads headers, config and norm vectors, nothing else. `quantize` executes the Plan, `verify`
// checks an output against it, `plan` prints it. A Plan with a refusal in `findings` is never executed.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "model/deepseek_v4_config.h"
#include "plan/options.h"

namespace nibblecast {

enum class Make {
  kKeep,          // the source's bytes
  kCastWeight,    // E2M1 codes of an expert, from its MXFP4 codes
  kBlockScale,    // E4M3 block scales, from its E8M0 scales
  kWeightScale2,  // F32 scalar 2^(k_max - 8), from the scales of its group
  kInputScale,    // F32 scalar, from the activations' amax
};

struct PlannedTensor {
  Tensor out;  // name, dtype, shape; shard and offset in the output
  Make make = Make::kKeep;
  std::optional<uint32_t> source;  // index into the source's tensors(): kKeep, kCastWeight, kBlockScale
};

struct PlannedShard {
  std::string name = {};    // the source shard's
  std::string header = {};  // the 8 + N bytes in front of the data
  uint64_t size_bytes = 0;
  // The scalars stand first in the data, [scalars_begin, scalars_end): they are known last.
  uint64_t scalars_begin = 0, scalars_end = 0;
};

// One projection of a routed expert; indices into the source's tensors() and into Plan::tensors.
struct PlannedLinear {
  uint32_t source_weight = 0, source_scale = 0;
  uint32_t weight = 0, block_scale = 0, weight_scale_2 = 0, input_scale = 0;
};
struct PlannedExpert {
  uint64_t expert = 0;
  std::array<PlannedLinear, 3> linears = {};  // w1, w2, w3
};

// The order of work: what must have been read before the next stage can begin.
struct Stage {
  std::optional<uint64_t> layer;       // nothing: embedding (first stage), or head, norm, mtp (last one)
  std::vector<uint32_t> kept;          // indices into Plan::tensors, in the source's order
  std::vector<PlannedExpert> experts;  // ascending; of main layers only
};

// What weights alone prove of a layer's activations.
struct ActivationBound {
  float w13 = 0;          // sqrt(hidden_size) * max |ffn_norm.weight|: RMSNorm's output, times its weight
  float w2 = 0;           // swiglu_limit^2: |silu(gate) * up|
  float w2_weighted = 0;  // times max(1, routed_scaling_factor)
};

enum class Severity { kWarning, kRefusal };
struct Finding {
  Severity severity = Severity::kWarning;
  std::string reason;
  std::string remedy;
};

struct Plan {
  QuantizeOptions options;
  DeepseekV4Config model;
  std::vector<PlannedTensor> tensors;   // by shard, then offset
  std::vector<PlannedShard> shards;     // same order and names as the source's
  std::vector<Stage> stages;            // embedding, layers ascending, the rest
  std::vector<ActivationBound> bounds;  // one a layer
  Json config, hf_quant_config, index;  // of the output
  uint64_t source_bytes = 0;            // tensor data of the source
  uint64_t output_bytes = 0;            // tensor data of the output
  uint64_t output_file_bytes = 0;       // shards with their headers
  uint64_t largest_expert_bytes = 0;    // source bytes of the largest expert: the unit of streaming
  double flops_per_token = 0;           // of the forward pass, products only
  std::vector<Finding> findings;

  bool refused() const;
};

// Throws kBadInput / kUnsupported, naming file and tensor, for what makes a Plan impossible: unknown, missing
// or ill-shaped tensors, experts in another format than MXFP4. What merely must not be run is in `findings`.
Plan make_plan(const Checkpoint& source, const QuantizeOptions& options);

// Hash of the source alone: shard names, sizes and headers, and config.
std::string source_identity(const Checkpoint& source);

// Everything that decides the output's bytes, by name, so that two jobs can be told apart by what differs:
// source headers and config, options, format version and `activations` (the hash of the rows' ids, or of the
// amax file's content).
Json plan_identity(const Plan& plan, const Checkpoint& source, std::string_view activations);
// Its hash.
std::string identity_hash(const Json& identity);

}  // namespace nibblecast
