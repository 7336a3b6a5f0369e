#include "plan/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/hash.h"
#include "checkpoint/manifest.h"
#include "checkpoint/safetensors.h"
#include "formats/bf16.h"
#include "plan/engines.h"
#include "plan/inventory.h"

namespace nibblecast {
namespace {

// Changes when the same input and options give other bytes.
constexpr std::string_view kFormatVersion = "nibblecast/1";
// BF16 rounds RMSNorm's input and output and SwiGLU's factors: at most four half steps of 2^-9.
constexpr double kBf16Slack = 1 + 0x1p-7;

std::string module_of(const Tensor& weight) {
  return weight.name.substr(0, weight.name.size() - std::string_view(".weight").size());
}

// Length first, so that parts cannot run into one another.
void add_part(Hash& hash, std::string_view part) {
  hash.add(std::to_string(part.size()) + ":");
  hash.add(part);
}

class Planner {
 public:
  Planner(const Checkpoint& source, const QuantizeOptions& options) : source_(source) {
    if (options.recipe != "nvfp4_experts_only") {
      throw Error(ErrorKind::kUsage, {}, "unknown recipe '" + options.recipe + "'",
                  {.expected = "nvfp4_experts_only"});
    }
    plan_.options = options;
    plan_.model = DeepseekV4Config::parse(source.config(), (source.folder() / "config.json").string());
    inventory_ = take_inventory(source, plan_.model);
  }

  Plan make() {
    classify();
    for (uint32_t shard = 0; shard < source_.shards().size(); ++shard) lay_out(shard);
    order_work();
    bound_activations();
    count_flops();
    describe();
    return std::move(plan_);
  }

 private:
  // What becomes of each source tensor; experts' are found through the inventory.
  void classify() {
    make_.assign(source_.tensors().size(), Make::kKeep);
    for (const auto& layer : inventory_.experts) {
      for (const SourceExpert& expert : layer) {
        for (const uint32_t weight : expert.weights) make_[weight] = Make::kCastWeight;
        for (const uint32_t scale : expert.scales) make_[scale] = Make::kBlockScale;
      }
    }
    planned_from_.resize(source_.tensors().size());
    scalars_of_.resize(source_.tensors().size());
  }

  // A shard's tensors: first the scalars, then the source's order with each tensor in its source's place.
  // Order by element size only where a grown scale would leave a wider tensor misaligned (readers map them in
  // place).
  void lay_out(uint32_t shard) {
    std::vector<uint32_t> sources;
    for (uint32_t index = 0; index < source_.tensors().size(); ++index) {
      if (source_.tensors()[index].shard == shard) sources.push_back(index);
    }
    std::vector<PlannedTensor> tensors = place(sources);
    const bool aligned = std::all_of(tensors.begin(), tensors.end(), [](const PlannedTensor& tensor) {
      return tensor.out.offset % dtype_bytes(tensor.out.dtype) == 0;
    });
    if (!aligned) {
      std::stable_sort(sources.begin(), sources.end(), [&](uint32_t a, uint32_t b) {
        return dtype_bytes(source_.tensors()[a].dtype) > dtype_bytes(source_.tensors()[b].dtype);
      });
      tensors = place(sources);
    }
    finish_shard(shard, std::move(tensors));
  }

  // Offsets relative to the data's begin.
  std::vector<PlannedTensor> place(const std::vector<uint32_t>& sources) const {
    std::vector<PlannedTensor> tensors;
    uint64_t offset = 0;
    const auto add = [&](Make make, std::string name, Dtype dtype, Shape shape,
                         std::optional<uint32_t> from) {
      PlannedTensor planned{.out = {.name = std::move(name), .dtype = dtype, .shape = std::move(shape)},
                            .make = make,
                            .source = from};
      planned.out.size_bytes = *element_count(planned.out.shape) * dtype_bytes(dtype);
      planned.out.offset = offset;
      offset += planned.out.size_bytes;
      tensors.push_back(std::move(planned));
    };
    for (const uint32_t index : sources) {
      if (make_[index] != Make::kCastWeight) continue;
      const std::string module = module_of(source_.tensors()[index]);
      add(Make::kWeightScale2, module + ".weight_scale_2", Dtype::kF32, {}, index);
      add(Make::kInputScale, module + ".input_scale", Dtype::kF32, {}, index);
    }
    for (const uint32_t index : sources) {
      const Tensor& tensor = source_.tensors()[index];
      if (make_[index] == Make::kCastWeight) {
        add(Make::kCastWeight, tensor.name, Dtype::kU8, tensor.shape, index);
      } else if (make_[index] == Make::kBlockScale) {
        const std::string module =
            tensor.name.substr(0, tensor.name.size() - std::string_view(".scale").size());
        add(Make::kBlockScale, module + ".weight_scale", Dtype::kF8E4M3,
            {tensor.shape[0], tensor.shape[1] * 2}, index);
      } else {
        add(Make::kKeep, tensor.name, tensor.dtype, tensor.shape, index);
      }
    }
    return tensors;
  }

  void finish_shard(uint32_t shard, std::vector<PlannedTensor> tensors) {
    std::vector<Tensor> outs;
    for (const PlannedTensor& tensor : tensors) outs.push_back(tensor.out);
    PlannedShard planned{.name = source_.shards()[shard].name};
    planned.header = write_safetensors_header(outs, source_.shards()[shard].metadata);
    planned.scalars_begin = planned.scalars_end = planned.size_bytes = planned.header.size();
    for (PlannedTensor& tensor : tensors) {
      const uint32_t index = static_cast<uint32_t>(plan_.tensors.size());
      const uint32_t from = *tensor.source;
      if (tensor.make == Make::kWeightScale2)
        scalars_of_[from][0] = index;
      else if (tensor.make == Make::kInputScale)
        scalars_of_[from][1] = index;
      else
        planned_from_[from] = index;
      if (tensor.make == Make::kWeightScale2 || tensor.make == Make::kInputScale) {
        planned.scalars_end += tensor.out.size_bytes;
        tensor.source.reset();
      }
      tensor.out.shard = shard;
      tensor.out.offset += planned.header.size();
      planned.size_bytes += tensor.out.size_bytes;
      plan_.output_bytes += tensor.out.size_bytes;
      plan_.tensors.push_back(std::move(tensor));
    }
    plan_.output_file_bytes += planned.size_bytes;
    plan_.shards.push_back(std::move(planned));
  }

  void order_work() {
    plan_.stages.resize(plan_.model.num_hidden_layers + 2);
    for (uint64_t layer = 0; layer < plan_.model.num_hidden_layers; ++layer) {
      plan_.stages[layer + 1].layer = layer;
      for (uint64_t expert = 0; expert < plan_.model.n_routed_experts; ++expert) {
        plan_.stages[layer + 1].experts.push_back(planned_expert(layer, expert));
      }
    }
    for (uint32_t index = 0; index < source_.tensors().size(); ++index) {
      if (make_[index] != Make::kKeep) continue;
      plan_.stages[inventory_.layer_of[index] + 1].kept.push_back(planned_from_[index]);
    }
    plan_.source_bytes = source_.data_bytes();
  }

  PlannedExpert planned_expert(uint64_t layer, uint64_t expert) {
    const SourceExpert& from = inventory_.experts[layer][expert];
    PlannedExpert planned{.expert = expert};
    uint64_t bytes = 0;
    for (size_t slot = 0; slot < 3; ++slot) {
      const uint32_t weight = from.weights[slot], scale = from.scales[slot];
      planned.linears[slot] = {.source_weight = weight,
                               .source_scale = scale,
                               .weight = planned_from_[weight],
                               .block_scale = planned_from_[scale],
                               .weight_scale_2 = scalars_of_[weight][0],
                               .input_scale = scalars_of_[weight][1]};
      bytes += source_.tensors()[weight].size_bytes + source_.tensors()[scale].size_bytes;
    }
    plan_.largest_expert_bytes = std::max(plan_.largest_expert_bytes, bytes);
    return planned;
  }

  void bound_activations() {
    TensorReader reader(source_);
    const double slack = plan_.options.compute_dtype == ComputeDtype::kBF16 ? kBf16Slack : 1;
    const auto rounded_up = [&](double bound) {
      return std::nextafter(static_cast<float>(bound * slack), INFINITY);
    };
    const double clamp = plan_.model.swiglu_limit * plan_.model.swiglu_limit;
    for (uint64_t layer = 0; layer < plan_.model.num_hidden_layers; ++layer) {
      const Tensor& norm = source_.at(fmt::format("layers.{}.ffn_norm.weight", layer));
      const std::vector<std::byte> bytes = reader.read(norm);
      double largest = 0;
      for (size_t at = 0; at + 1 < bytes.size(); at += 2) {
        bf16 value;
        std::memcpy(&value.bits, bytes.data() + at, 2);
        const double magnitude = std::fabs(to_float(value));
        if (!(magnitude <= std::numeric_limits<float>::max())) {
          throw Error(ErrorKind::kBadInput,
                      {.file = source_.where(norm).file, .tensor = norm.name, .offset = norm.offset + at},
                      "a norm weight is not finite");
        }
        largest = std::max(largest, magnitude);
      }
      plan_.bounds.push_back(
          {.w13 = rounded_up(std::sqrt(static_cast<double>(plan_.model.hidden_size)) * largest),
           .w2 = rounded_up(clamp),
           .w2_weighted = rounded_up(clamp * std::max(1.0, plan_.model.routed_scaling_factor))});
    }
  }

  void count_flops() {
    for (uint64_t layer = 0; layer < plan_.model.num_hidden_layers; ++layer) {
      for (const ModelTensor& tensor : layer_tensors(plan_.model, layer)) {
        const bool is_table = tensor.storage == Storage::kI64 || tensor.name.ends_with(".ape");
        if (tensor.shape.size() != 2 || is_table) continue;
        const double used = tensor.storage == Storage::kExpert
                                ? static_cast<double>(plan_.model.num_experts_per_tok) /
                                      static_cast<double>(plan_.model.n_routed_experts)
                                : 1.0;
        plan_.flops_per_token +=
            2 * used * static_cast<double>(tensor.shape[0]) * static_cast<double>(tensor.shape[1]);
      }
    }
  }

  // The JSON documents of the output, and what the engines say of them.
  void describe() {
    std::vector<std::string> modules;
    for (uint64_t layer = 0; layer < plan_.model.num_hidden_layers; ++layer) {
      modules.push_back(fmt::format("layers.{}.ffn.experts", layer));
    }
    plan_.config = nvfp4_experts_config(source_.config(), modules, NIBBLECAST_VERSION);
    plan_.hf_quant_config = nvfp4_experts_hf_quant_config(modules, NIBBLECAST_VERSION);
    std::map<std::string, std::string> weight_map;
    std::vector<Tensor> outs;
    for (const PlannedTensor& tensor : plan_.tensors) {
      weight_map.emplace(tensor.out.name, plan_.shards[tensor.out.shard].name);
      outs.push_back(tensor.out);
    }
    plan_.index = output_index(source_.index_metadata(), weight_map, plan_.output_bytes);
    for (const Breach& breach : check_engine_contracts(plan_.config, plan_.hf_quant_config, outs)) {
      const bool named = plan_.options.engines.contains(breach.engine);
      plan_.findings.push_back(
          {.severity = named ? Severity::kRefusal : Severity::kWarning,
           .reason = fmt::format("{} would not load the output: {}", engine_name(breach.engine), breach.rule),
           .remedy = named
                         ? fmt::format("leave out --engine {}, or --engine none", engine_name(breach.engine))
                         : ""});
    }
  }

  const Checkpoint& source_;
  Plan plan_;
  Inventory inventory_;
  std::vector<Make> make_;                           // by source tensor
  std::vector<uint32_t> planned_from_;               // by source tensor: its tensor in the plan
  std::vector<std::array<uint32_t, 2>> scalars_of_;  // by source weight: weight_scale_2, input_scale
};

}  // namespace

bool Plan::refused() const {
  return std::any_of(findings.begin(), findings.end(),
                     [](const Finding& finding) { return finding.severity == Severity::kRefusal; });
}

Plan make_plan(const Checkpoint& source, const QuantizeOptions& options) {
  return Planner(source, options).make();
}

std::string source_identity(const Checkpoint& source) {
  Hash hash;
  for (const Shard& shard : source.shards()) {
    add_part(hash, shard.name);
    add_part(hash, std::to_string(shard.size_bytes));
    add_part(hash, shard.header_json);
  }
  add_part(hash, source.config_text());
  return hash.hex();
}

Json plan_identity(const Plan& plan, const Checkpoint& source, std::string_view activations) {
  static constexpr const char* kW2Inputs[] = {"max", "weighted", "unweighted"};
  const QuantizeOptions& options = plan.options;
  return {{"format", kFormatVersion},
          {"version", NIBBLECAST_VERSION},
          {"source", source_identity(source)},
          {"recipe", options.recipe},
          {"compute dtype", compute_dtype_name(options.compute_dtype)},
          {"input scale", options.input_scale == InputScalePolicy::kLayer ? "layer" : "expert"},
          {"w2 input", kW2Inputs[static_cast<int>(options.w2_input)]},
          {"negative zero", options.negative_zero == NegativeZero::kKeep ? "keep" : "modelopt"},
          {"calibration rows or amax file", activations}};
}

std::string identity_hash(const Json& identity) {
  Hash hash;
  hash.add(identity.dump());
  return hash.hex();
}

}  // namespace nibblecast
