// plan/plan.h - the Plan: everything a run will do, as a value, known before the first byte is written.
//
// `make_plan` reads headers, config, norm vectors and a sample of the weights, nothing else. `quantize`
// executes the Plan, `verify` checks an output against it, `plan` prints it. A Plan with a refusal in
// `findings` is never executed.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "formats/nvfp4_quantize.h"
#include "model/model.h"
#include "plan/options.h"
#include "weights/container.h"

namespace nibblecast {

enum class Make {
  kKeep,            // the source's bytes
  kCastWeight,      // E2M1 codes from MXFP4 codes, no value changed
  kNvfp4Weight,     // E2M1 codes, by the linear's weight method
  kFp8Weight,       // E4M3, one F32 scale
  kFp8BlockWeight,  // E4M3, a scale a tile
  kWideWeight,      // BF16 or F32 (the dtype says which): the values themselves
  kMxfp4Weight,     // E2M1 codes from NVFP4 codes, no value changed
  kBlockScale,      // of the weight it belongs to
  kWeightScale,     // F32 scalar: weight_scale_2 of NVFP4, weight_scale of FP8
  kInputScale,      // F32 scalar, from the activations' amax
  kCacheScale,      // F32 scalar, from the amax of keys or values as they are cached: k_scale, v_scale
};
constexpr bool is_scalar(Make make) {
  return make == Make::kWeightScale || make == Make::kInputScale || make == Make::kCacheScale;
}

// A tensor of the output that several of the source's make is planned in parts: `count` equal ones, which
// follow each other in the plan and in the shard.
struct StackPart {
  std::string whole = {};  // the tensor's name in the output
  Shape shape = {};        // and its shape
  uint64_t index = 0, count = 1;
};

struct PlannedTensor {
  Tensor out;  // name, dtype, shape; shard and offset in the output
  Make make = Make::kKeep;
  // F32 whose every value x, made as `make` says, is stored as 1 / x, rounded once: its dialect wants it so.
  bool reciprocal = false;
  std::optional<uint32_t> source = {};  // index into the source's tensors(): kKeep only
  std::optional<StackPart> part = {};   // `out` is one: its own place, its own shape, a name for messages

  const std::string& name_in_file() const { return part ? part->whole : out.name; }
  bool begins_tensor() const { return !part || part->index == 0; }
  bool is_copy() const { return make == Make::kKeep && !reciprocal; }  // the source's bytes
  // From the value of a scalar to what is stored, and back: of powers of two exactly, else to the last bit.
  float stored(float value) const { return reciprocal ? 1 / value : value; }
};

struct PlannedShard {
  std::string name = {};    // the source shard's
  std::string header = {};  // the 8 + N bytes in front of the data
  uint64_t size_bytes = 0;
  // The scalars stand first in the data, [scalars_begin, scalars_end): they are known last.
  uint64_t scalars_begin = 0, scalars_end = 0;
};

inline constexpr uint32_t kNone = UINT32_MAX;

// A linear whose weight is made anew, or one of an MLP that streams by, which may be kept. Indices into
// Plan::tensors, kNone where there is no such tensor. How it is made: tensors[weight].make.
struct PlannedLinear {
  LinearSource source = {};
  const WeightModule* module = nullptr;  // of Plan::model; null in plans that know no model
  uint32_t weight = kNone, block_scale = kNone, weight_scale = kNone, input_scale = kNone;
  WeightMethod method = WeightMethod::kMax;  // of kNvfp4Weight
  uint8_t share = 0;                         // linears of a group with the same number share their amax
  // Stored as FP8, perhaps with MXFP4's values (formats/fp8_to_mxfp4.h): where all blocks of all linears with
  // the same share have them, these are cast as MXFP4 would be, else quantized. Only the data tell.
  bool try_cast = false;
  // Matrices of a stack (WeightModule::stack), each of which stands transposed in the output. 0: a matrix.
  uint64_t stack = 0;
};

// What goes through memory at once: an MLP that streams by (a routed expert, or a dense layer's only one, as
// expert 0), or dense linears that share their amax.
struct PlannedGroup {
  std::optional<uint64_t> expert;
  std::vector<PlannedLinear> linears;
};

// A scale of the KV cache, and the entry of the layer's activations that it comes from.
struct PlannedCacheScale {
  uint32_t tensor = kNone;  // index into Plan::tensors
  std::string entry = {};   // "attn.k"
};

// The order of work: what must have been read before the next stage can begin.
struct Stage {
  std::optional<uint64_t> layer;  // nothing: embedding (first stage), or head, norm, draft layers (last one)
  std::vector<uint32_t> kept;     // indices into Plan::tensors, in the source's order; no streaming MLP's
  std::vector<PlannedGroup> groups;  // dense ones, then the MLPs ascending
  std::vector<PlannedCacheScale> cache_scales = {};
};

// What weights alone prove of a tap's values.
struct TapBound {
  float most = std::numeric_limits<float>::infinity();  // an RMSNorm's: sqrt(width) * max |weight|; a clamp's
  float most_weighted =
      std::numeric_limits<float>::infinity();  // of a weighted tap, times the routing weight
  // min |weight| of the norm: the largest value of a normalized row is at least 1. Of a token whose row is
  // not nearly zero (eps). 0: nothing is known.
  float least = 0;
};

enum class Severity { kWarning, kRefusal };
struct Finding {
  Severity severity = Severity::kWarning;
  std::string reason;
  std::string remedy;
};

struct Plan {
  QuantizeOptions options;
  std::string command = "quantize";  // or another that makes a checkpoint: "dequantize", "convert"
  std::string weights;               // weight_sample() of the source
  std::string made;  // the recipe's name and a hash of what it decides, or another command's name and options
  std::shared_ptr<const Model> model;  // null where a command needs none
  std::vector<PlannedTensor> tensors;  // by shard, then offset
  std::vector<PlannedShard> shards;    // same order and names as the source's
  std::vector<Stage> stages;           // embedding, layers ascending, the rest; of other commands only one
  std::vector<std::vector<TapBound>> bounds;  // [layer][tap], where the plan has layers
  Json config, hf_quant_config, index;        // of the output; hf_quant_config or index null: no such file
  std::string config_text, index_text;        // as the files shall hold them; empty: the documents, formatted
  uint64_t source_bytes = 0;                  // tensor data of the source
  uint64_t output_bytes = 0;                  // tensor data of the output
  uint64_t output_file_bytes = 0;             // shards with their headers
  // Of the largest group: the unit of streaming.
  uint64_t largest_source_bytes = 0, largest_made_bytes = 0;
  double flops_per_token = 0;  // of the forward pass, products only
  std::vector<Finding> findings;

  uint64_t file_tensors() const;  // as the shards' headers count them: a stacked one is one
  bool refused() const;
  bool needs_activations() const;             // there is an input_scale that hangs on them
  bool needs_second_moments() const;          // a weight method does (kWmse)
  std::vector<uint32_t> tried_casts() const;  // weights of linears with try_cast, in the order of work
  bool has_dialect() const { return options.format != OutputFormat::kAuto; }  // so documents name its formats
  uint64_t layers() const { return model ? model->layers() : 0; }
};

// Of the values of a tap that the plan's --w2-input counts.
float most_of(const Plan& plan, const Tap& tap, const TapBound& bound);

// Throws kBadInput / kUnsupported, naming file and tensor, for what makes a Plan impossible: unknown, missing
// or ill-shaped tensors, weights in a container that is not read. What merely must not be run is in
// `findings`.
Plan make_plan(const Checkpoint& source, const QuantizeOptions& options);

// The options with what `auto` stands for in them: the recipe and the output's format. kUnsupported: a format
// that the family does not have.
QuantizeOptions resolved_options(QuantizeOptions options, const Model& model);

// The recipe that resolved options name, with what they say instead.
Recipe recipe_of(FileSystem& files, const QuantizeOptions& options);

// Hash of the source alone: shard names, sizes and headers, and config.
std::string source_identity(const Checkpoint& source);

// Everything that decides the output's bytes, by name, so that two jobs can be told apart by what differs:
// source headers, config and sampled weights, options, format version and `activations` (the hash of the
// rows' ids, or of the amax file's content).
Json plan_identity(const Plan& plan, const Checkpoint& source, std::string_view activations);
// Its hash.
std::string identity_hash(const Json& identity);

}  // namespace nibblecast
