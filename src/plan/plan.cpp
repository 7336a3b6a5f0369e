#include "plan/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <unordered_map>
#include <utility>

#include "base/build_info.h"
#include "base/error.h"
#include "base/hash.h"
#include "checkpoint/manifest.h"
#include "checkpoint/quantization.h"
#include "formats/bf16.h"
#include "formats/nvfp4.h"
#include "model/deepseek_v4_groups.h"
#include "plan/engines.h"
#include "plan/flops.h"
#include "plan/inventory.h"
#include "plan/layout.h"
#include "plan/linear.h"
#include "plan/recipe_modules.h"
#include "plan/weight_sample.h"

namespace nibblecast {
namespace {

// Changes when the same input and options give other bytes.
constexpr std::string_view kFormatVersion = "nibblecast/1";
// BF16 rounds RMSNorm's input and output and SwiGLU's factors: at most four half steps of 2^-9.
constexpr double kBf16Slack = 1 + 0x1p-7;

// Length first, so that parts cannot run into one another.
void add_part(Hash& hash, std::string_view part) {
  hash.add(std::to_string(part.size()) + ":");
  hash.add(part);
}

class Planner {
 public:
  Planner(const Checkpoint& source, const QuantizeOptions& options) : source_(source) {
    refuse_foreign_format(source);
    plan_.options = options;
    plan_.weights = weight_sample(source);
    plan_.model = DeepseekV4Config::parse(source.config(), (source.folder() / "config.json").string());
    recipe_ = recipe_of(source.files(), options);
    plan_.options.recipe_text = recipe_.text;
    modules_ = resolve_modules(recipe_, plan_.model);
    inventory_ = take_inventory(source, plan_.model);
  }

  Plan make() {
    decide();
    lay_out(source_, replacements_, plan_);
    order_work();
    bound_activations();
    if (plan_.options.input_scale == InputScalePolicy::kConstant) check_constant_scale();
    count_flops();
    describe();
    return std::move(plan_);
  }

 private:
  // What becomes of each linear, and of each source tensor.
  void decide() {
    const std::span<const Tensor> tensors = source_.tensors();
    std::unordered_map<std::string_view, uint32_t> index_of;
    replacements_.in_place.resize(tensors.size());
    replacements_.scalars.resize(tensors.size());
    for (uint32_t index = 0; index < tensors.size(); ++index) {
      const Tensor& tensor = tensors[index];
      replacements_.in_place[index] = {{Make::kKeep, tensor.name, tensor.dtype, tensor.shape}};
      index_of.emplace(tensor.name, index);
    }
    Hash decisions;
    for (const ResolvedModule& resolved : modules_) {
      const auto find = [&](const char* suffix) {
        const auto found = index_of.find(resolved.module.name + suffix);
        return found == index_of.end() ? kNone : found->second;
      };
      SourceLinear linear{.module = resolved.module.name, .weight = find(".weight"), .scale = find(".scale")};
      const LinearMake make = make_of(resolved, linear);
      add_part(decisions, fmt::format("{} {} {} {}", linear.module, static_cast<int>(make.make),
                                      static_cast<int>(resolved.recipe.method), make.quantize_input));
      replace_linear(source_, linear, make, replacements_);
      is_made_.push_back(make.make != Make::kKeep);
      linears_.push_back(std::move(linear));
    }
    plan_.made = recipe_.name + " " + decisions.hex();
  }

  LinearMake make_of(const ResolvedModule& resolved, const SourceLinear& linear) const {
    const Dtype stored = source_.tensors()[linear.weight].dtype;
    LinearMake make{.quantize_input = resolved.recipe.quantize_input,
                    .tile_rows = plan_.model.tile_rows,
                    .tile_cols = plan_.model.tile_cols};
    switch (resolved.recipe.format) {
      case WeightFormat::kKeep:
        break;
      case WeightFormat::kNvfp4:
        make.make = resolved.recipe.method == RecipeMethod::kCast && stored == Dtype::kI8
                        ? Make::kCastWeight
                        : Make::kNvfp4Weight;
        break;
      case WeightFormat::kFp8:
        make.make = Make::kFp8Weight;
        break;
      case WeightFormat::kFp8Block:
        if (stored != Dtype::kF8E4M3) make.make = Make::kFp8BlockWeight;
        make.dtype = fp8_scale_dtype();
        break;
      case WeightFormat::kBf16:
        if (stored != Dtype::kBF16) make.make = Make::kWideWeight;
        break;
      case WeightFormat::kF32:
        if (stored != Dtype::kF32) make.make = Make::kWideWeight;
        make.dtype = Dtype::kF32;
        break;
    }
    return make;
  }

  // Of the source's own FP8 weights, so that one config speaks for all.
  Dtype fp8_scale_dtype() const {
    const Tensor* scale = source_.find("layers.0.attn.wq_a.scale");
    return scale == nullptr ? Dtype::kF8E8M0 : scale->dtype;
  }

  void order_work() {
    plan_.stages.resize(plan_.model.num_hidden_layers + 2);
    for (uint64_t layer = 0; layer < plan_.model.num_hidden_layers; ++layer)
      plan_.stages[layer + 1].layer = layer;
    const auto indices = indices_by_name(plan_);
    std::unordered_map<std::string_view, size_t> module_index;
    for (size_t index = 0; index < modules_.size(); ++index)
      module_index.emplace(modules_[index].module.name, index);
    for (uint64_t layer = 0; layer < plan_.model.num_hidden_layers; ++layer)
      add_dense_groups(layer, module_index, indices);
    add_lone_linears(indices);
    for (uint64_t layer = 0; layer < plan_.model.num_hidden_layers; ++layer) {
      for (uint64_t expert = 0; expert < plan_.model.n_routed_experts; ++expert)
        add_expert(layer, expert, module_index, indices);
    }
    std::vector<bool> in_group(plan_.tensors.size());
    for (const Stage& stage : plan_.stages) {
      for (const PlannedGroup& group : stage.groups) {
        for (const PlannedLinear& linear : group.linears) {
          for (const uint32_t index : {linear.weight, linear.block_scale})
            if (index != kNone) in_group[index] = true;
        }
      }
    }
    std::vector<uint32_t> kept(source_.tensors().size(), kNone);
    for (uint32_t index = 0; index < plan_.tensors.size(); ++index) {
      const PlannedTensor& tensor = plan_.tensors[index];
      if (tensor.make == Make::kKeep && !in_group[index]) kept[*tensor.source] = index;
    }
    for (uint32_t source = 0; source < kept.size(); ++source) {
      if (kept[source] != kNone) stage_of(source).kept.push_back(kept[source]);
    }
  }

  Stage& stage_of(uint32_t source) {
    return plan_.stages[static_cast<size_t>(inventory_.layer_of[source] + 1)];
  }

  PlannedLinear linear_of(size_t module, const std::unordered_map<std::string, uint32_t>& indices) const {
    PlannedLinear linear = planned_linear(linears_[module], indices);
    linear.method = requantize_method(modules_[module].recipe.method);
    return linear;
  }

  // Linears of a fused group that get a common scale.
  void add_dense_groups(uint64_t layer, const std::unordered_map<std::string_view, size_t>& module_index,
                        const std::unordered_map<std::string, uint32_t>& indices) {
    for (const std::vector<std::string>& names : fused_groups(plan_.model, layer)) {
      if (parse_expert_name(names[0])) break;  // the routed experts come last, and have a group each
      PlannedGroup group;
      for (const std::string& name : names) {
        const size_t module = module_index.at(name);
        const Make make = is_made_[module] ? plan_.tensors[indices.at(name + ".weight")].make : Make::kKeep;
        if (make != Make::kNvfp4Weight && make != Make::kFp8Weight) continue;
        group.linears.push_back(linear_of(module, indices));
        // NVFP4 and FP8 linears of a group have each their own common amax.
        group.linears.back().share = make == Make::kNvfp4Weight ? 0 : 1;
        is_made_[module] = false;  // taken
      }
      if (group.linears.empty()) continue;
      check_methods(group);
      add_group(source_, std::move(group), plan_.stages[layer + 1], plan_);
    }
  }

  // Linears that share their amax share their scale too, which only one method gives.
  void check_methods(const PlannedGroup& group) const {
    for (const PlannedLinear& linear : group.linears) {
      const auto first = std::ranges::find(group.linears, linear.share, &PlannedLinear::share);
      if (plan_.tensors[first->weight].make == plan_.tensors[linear.weight].make &&
          first->method == linear.method)
        continue;
      const auto name = [&](const PlannedLinear& of) { return source_.tensors()[of.source_weight].name; };
      throw Error(ErrorKind::kUnsupported, {.file = recipe_.origin, .tensor = name(linear)},
                  fmt::format("shares its scale with {}, to which the recipe gives another weight_method",
                              name(*first)),
                  {.hint = "give both the same one"});
    }
  }

  void add_lone_linears(const std::unordered_map<std::string, uint32_t>& indices) {
    for (size_t module = 0; module < modules_.size(); ++module) {
      if (!is_made_[module] || parse_expert_name(linears_[module].module)) continue;
      PlannedGroup group;
      group.linears.push_back(linear_of(module, indices));
      add_group(source_, std::move(group), stage_of(linears_[module].weight), plan_);
    }
  }

  // Kept ones too: the forward pass takes experts one by one.
  void add_expert(uint64_t layer, uint64_t expert,
                  const std::unordered_map<std::string_view, size_t>& module_index,
                  const std::unordered_map<std::string, uint32_t>& indices) {
    PlannedGroup group{.expert = expert, .linears = {}};
    for (int projection = 1; projection <= 3; ++projection) {
      const std::string name = expert_module(layer, expert, projection);
      group.linears.push_back(linear_of(module_index.at(name), indices));
      group.linears.back().share = projection == 2 ? 1 : 0;
    }
    check_methods(group);
    add_group(source_, std::move(group), plan_.stages[layer + 1], plan_);
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
      double largest = 0, least = std::numeric_limits<float>::max();
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
        least = std::min(least, magnitude);
      }
      plan_.bounds.push_back(
          {.w13 = rounded_up(std::sqrt(static_cast<double>(plan_.model.hidden_size)) * largest),
           .w13_least = static_cast<float>(least / kBf16Slack),
           .w2 = rounded_up(clamp),
           .w2_weighted = rounded_up(clamp * std::max(1.0, plan_.model.routed_scaling_factor))});
    }
  }

  // What weights prove of a constant: of experts, that nothing clips, or in how many layers it could.
  void check_constant_scale() {
    const float largest = kNvfp4Max * plan_.options.constant_input_scale;
    uint64_t dense = 0, unsafe_layers = 0;
    float bound = 0;
    for (const Stage& stage : plan_.stages) {
      bool experts = false;
      for (const PlannedGroup& group : stage.groups) {
        for (const PlannedLinear& linear : group.linears) {
          if (linear.input_scale == kNone) continue;
          experts |= group.expert.has_value();
          dense += !group.expert;
        }
      }
      if (!experts) continue;
      const ActivationBound& of = plan_.bounds[*stage.layer];
      const float in_layer = std::max(of.w13, w2_bound(plan_, of));
      unsafe_layers += !(in_layer <= largest);
      bound = std::max(bound, in_layer);
    }
    const std::string constant =
        fmt::format("a constant input_scale of {} represents activations up to {:.6g}",
                    plan_.options.constant_input_scale, largest);
    if (unsafe_layers > 0) {
      warn(
          fmt::format("{}; in {} of {} layers the weights allow more, up to {:.6g}: what is above is clipped",
                      constant, unsafe_layers, plan_.bounds.size(), bound));
    }
    if (dense > 0) {
      warn(fmt::format("{}; the weights prove no bound for the inputs of {} linears outside the experts",
                       constant, dense));
    }
  }

  void count_flops() {
    for (uint64_t layer = 0; layer < plan_.model.num_hidden_layers; ++layer)
      plan_.flops_per_token += layer_flops(plan_.model, layer).sum();
    plan_.flops_per_token += head_flops(plan_.model);
    for (const ModelTensor& tensor : global_tensors(plan_.model)) {
      if (tensor.shape.size() != 2 || tensor.name == "embed.weight") continue;
      plan_.flops_per_token +=
          2 * static_cast<double>(tensor.shape[0]) * static_cast<double>(tensor.shape[1]);
    }
  }

  // The JSON documents of the output, and what recipe and engines say of them.
  void describe() {
    const std::vector<ManifestModule> modules = manifest_modules(modules_);
    const Manifest manifest{.modules = modules,
                            .fp8_kv_cache = recipe_.kv_cache == KvCache::kFp8Cast,
                            .producer_version = NIBBLECAST_VERSION};
    plan_.config = output_config(source_.config(), manifest);
    plan_.hf_quant_config = output_hf_quant_config(manifest);
    index_output(source_, plan_);
    for (std::string& sentence : unmatched_patterns(recipe_, modules_)) warn(std::move(sentence));
    if (std::ranges::all_of(plan_.tensors, [](const auto& tensor) { return tensor.make == Make::kKeep; })) {
      plan_.findings.push_back(
          {.severity = Severity::kRefusal,
           .reason =
               fmt::format("no module is quantized: by {} every tensor stays as it is, and the output would "
                           "be a copy of the source",
                           recipe_.origin),
           .remedy = "`nibblecast plan --explain MODULE` says what becomes of a module, and why"});
    }
    if (std::optional<std::string> sentence = check_kv_cache(recipe_.kv_cache)) warn(std::move(*sentence));
    ask_engines();
  }

  void warn(std::string reason) {
    plan_.findings.push_back({.severity = Severity::kWarning, .reason = std::move(reason), .remedy = {}});
  }

  // A finding for each rule, with all engines that it is a rule of.
  void ask_engines() {
    std::vector<Breach> breaches = breaches_of(plan_);
    while (!breaches.empty()) {
      const std::string rule = breaches.front().rule;
      const auto others = std::stable_partition(breaches.begin(), breaches.end(),
                                                [&](const Breach& breach) { return breach.rule == rule; });
      plan_.findings.push_back(finding_of(std::span(breaches.begin(), others)));
      breaches.erase(breaches.begin(), others);
    }
  }

  // Of one rule. A refusal where one of the engines was asked for.
  Finding finding_of(std::span<const Breach> breaches) const {
    std::string engines, options;
    for (const Breach& breach : breaches) {
      engines += (engines.empty() ? "" : ", ") + std::string(engine_release(breach.engine));
      if (plan_.options.engines.contains(breach.engine))
        options += fmt::format("{}--engine {}", options.empty() ? "" : " and ", engine_name(breach.engine));
    }
    Finding finding{.severity = Severity::kWarning,
                    .reason = fmt::format("{} would not load the output: {}", engines, breaches[0].rule),
                    .remedy = breaches[0].remedy};
    if (options.empty()) return finding;
    finding.severity = Severity::kRefusal;
    if (!finding.remedy.empty()) finding.remedy += ", or ";
    finding.remedy += fmt::format("leave out {}, or give --engine none", options);
    return finding;
  }

  const Checkpoint& source_;
  Plan plan_;
  Recipe recipe_;
  std::vector<ResolvedModule> modules_;
  std::vector<SourceLinear> linears_;  // by module
  std::vector<bool> is_made_;          // by module: not kept, and not yet in a group
  Inventory inventory_;
  Replacements replacements_;
};

}  // namespace

uint64_t Plan::file_tensors() const {
  return static_cast<uint64_t>(std::ranges::count_if(tensors, &PlannedTensor::begins_tensor));
}

bool Plan::refused() const {
  return std::any_of(findings.begin(), findings.end(),
                     [](const Finding& finding) { return finding.severity == Severity::kRefusal; });
}

bool Plan::needs_activations() const {
  return options.input_scale != InputScalePolicy::kConstant &&
         std::ranges::find(tensors, Make::kInputScale, &PlannedTensor::make) != tensors.end();
}

std::vector<Breach> breaches_of(const Plan& plan) {
  std::vector<Tensor> outs;
  for (const PlannedTensor& tensor : plan.tensors) outs.push_back(tensor.out);
  return check_engine_contracts(plan.config, plan.hf_quant_config, outs);
}

float w2_bound(const Plan& plan, const ActivationBound& bound) {
  switch (plan.options.w2_input) {
    case W2Input::kMax:
      return std::max(bound.w2, bound.w2_weighted);
    case W2Input::kWeighted:
      return bound.w2_weighted;
    case W2Input::kUnweighted:
      return bound.w2;
  }
  return bound.w2;
}

Recipe recipe_of(FileSystem& files, const QuantizeOptions& options) {
  Recipe recipe = options.recipe_text.empty() ? load_recipe(files, options.recipe)
                                              : recipe_of_file(options.recipe_text, options.recipe);
  if (options.weight_method) recipe.weight_method = options.weight_method;
  if (options.kv_cache) recipe.kv_cache = *options.kv_cache;
  return recipe;
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
          {"version", build_version()},
          {"source", source_identity(source)},
          {"weights", plan.weights},
          {"recipe", plan.made},
          {"kv cache", options.kv_cache ? kv_cache_name(*options.kv_cache) : "recipe"},
          {"compute dtype", compute_dtype_name(options.compute_dtype)},
          {"input scale", input_scale_text(options)},
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
