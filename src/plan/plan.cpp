#include "plan/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "base/build_info.h"
#include "base/error.h"
#include "base/hash.h"
#include "checkpoint/adapter.h"
#include "checkpoint/quantization.h"
#include "model/family.h"
#include "plan/auto_recipe.h"
#include "plan/bounds.h"
#include "plan/decisions.h"
#include "plan/dialects/dialect.h"
#include "plan/engines.h"
#include "plan/layout.h"
#include "plan/linear.h"
#include "plan/second_moments.h"
#include "plan/weight_sample.h"
#include "plan/work_order.h"

namespace nibblecast {
namespace {

// Changes when the same input and options give other bytes.
constexpr std::string_view kFormatVersion = "nibblecast/1";

class Planner {
 public:
  Planner(const Checkpoint& source, const QuantizeOptions& options) : source_(source) {
    refuse_foreign_format(source);
    plan_.weights = weight_sample(source);
    plan_.model = std::make_shared<const Model>(
        read_model(source.config(), (source.folder() / "config.json").string()));
    plan_.options = resolved_options(options, *plan_.model);
    Recipe recipe = recipe_of(source.files(), plan_.options);
    plan_.options.recipe_text = recipe.text;
    made_ = decide(source, *plan_.model, plan_.options, std::move(recipe));
    plan_.made = made_.recipe.name + " " + made_.hash;
  }

  Plan make() {
    warn_of_widened();
    warn_of_missing_drafts();
    warn_of_adapter();
    lay_out(source_, made_.replacements, plan_);
    order_work(source_, made_, plan_);
    bound_activations(source_, plan_);
    if (plan_.options.input_scale == InputScalePolicy::kConstant) {
      for (std::string& doubt : doubts_of_constant_scale(plan_)) warn(std::move(doubt));
    }
    count_flops();
    describe();
    return std::move(plan_);
  }

 private:
  void warn_of_widened() {
    if (made_.widened == 0) return;
    warn(
        fmt::format("{} weights that the recipe keeps are FP8 or FP4 in the source and become BF16: --format "
                    "{} cannot say "
                    "what they are",
                    made_.widened, output_format_name(plan_.options.format)));
  }

  // Draft layers that config.json declares and the files lack, as where transformers saved the model.
  void warn_of_missing_drafts() {
    std::string missing;
    for (const std::string& prefix : plan_.model->table.declared_drafts) {
      const bool found = std::ranges::any_of(
          source_.tensors(), [&](const Tensor& tensor) { return tensor.name.starts_with(prefix); });
      if (!found) missing += (missing.empty() ? "" : ", ") + prefix + "*";
    }
    if (missing.empty()) return;
    warn(fmt::format(
        "config.json declares draft layers that the source's files lack: {}; the output has none", missing));
  }

  void warn_of_adapter() {
    if (!source_.files().status(source_.folder() / kAdapterName)) return;
    warn(fmt::format(
        "the source holds an adapter ({}), which is not applied: the output is that of the weights without "
        "it, and has no copy of it; merge it first if it belongs to the model",
        kAdapterName));
  }

  void count_flops() {
    for (uint64_t layer = 0; layer < plan_.layers(); ++layer)
      plan_.flops_per_token += layer_flops(*plan_.model, layer).sum();
    plan_.flops_per_token += head_flops(*plan_.model);
  }

  // The JSON documents of the output, and what recipe and engines say of them.
  void describe() {
    Documents documents = dialect_of(plan_.options.format)
                              .documents({.source = source_,
                                          .model = *plan_.model,
                                          .modules = made_.modules,
                                          .kv_cache = made_.recipe.kv_cache,
                                          .version = NIBBLECAST_VERSION});
    plan_.config = std::move(documents.config);
    plan_.hf_quant_config = std::move(documents.hf_quant_config);
    for (std::string& sentence : documents.warnings) warn(std::move(sentence));
    index_output(source_, plan_);
    for (std::string& sentence : unmatched_patterns(made_.recipe, made_.modules)) warn(std::move(sentence));
    if (std::ranges::all_of(plan_.tensors, [](const auto& tensor) { return tensor.make == Make::kKeep; })) {
      plan_.findings.push_back(
          {.severity = Severity::kRefusal,
           .reason =
               fmt::format("no module is quantized: by {} every tensor stays as it is, and the output would "
                           "be a copy of the source",
                           made_.recipe.origin),
           .remedy = "`nibblecast plan --explain MODULE` says what becomes of a module, and why"});
    }
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
  Decisions made_;
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
  const bool measured = options.input_scale != InputScalePolicy::kConstant;
  return std::ranges::any_of(tensors, [&](const PlannedTensor& tensor) {
    return tensor.make == Make::kCacheScale || (measured && tensor.make == Make::kInputScale);
  });
}

bool Plan::needs_second_moments() const {
  const auto of_group = [&](const PlannedGroup& group) {
    return std::ranges::any_of(group.linears, [&](const PlannedLinear& linear) {
      return nibblecast::needs_second_moments(*this, linear);
    });
  };
  return std::ranges::any_of(stages,
                             [&](const Stage& stage) { return std::ranges::any_of(stage.groups, of_group); });
}

std::vector<uint32_t> Plan::tried_casts() const {
  std::vector<uint32_t> tried;
  for (const Stage& stage : stages) {
    for (const PlannedGroup& group : stage.groups) {
      for (const PlannedLinear& linear : group.linears)
        if (linear.try_cast) tried.push_back(linear.weight);
    }
  }
  return tried;
}

std::vector<Breach> breaches_of(const Plan& plan) {
  std::vector<Tensor> outs;
  for (const PlannedTensor& tensor : plan.tensors) outs.push_back(tensor.out);
  return check_contracts(*plan.model, plan.options.format, plan.config, plan.hf_quant_config, outs);
}

float most_of(const Plan& plan, const Tap& tap, const TapBound& bound) {
  if (!tap.weighted || plan.options.w2_input == W2Input::kUnweighted) return bound.most;
  return plan.options.w2_input == W2Input::kWeighted ? bound.most_weighted
                                                     : std::max(bound.most, bound.most_weighted);
}

QuantizeOptions resolved_options(QuantizeOptions options, const Model& model) {
  if (options.recipe == kAutoRecipe && options.recipe_text.empty()) options.recipe = auto_recipe(model);
  const std::vector<OutputFormat> formats = formats_of(model);
  if (options.format == OutputFormat::kAuto) options.format = formats.front();
  if (std::ranges::find(formats, options.format) != formats.end()) return options;
  std::string names;
  for (const OutputFormat format : formats)
    names += (names.empty() ? "" : " or ") + std::string(output_format_name(format));
  throw Error(ErrorKind::kUnsupported, {},
              fmt::format("--format {}: {} models are not written so", output_format_name(options.format),
                          model.model_type),
              {.expected = names, .found = {}, .hint = "leave --format out"});
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
    hash.add_part(shard.name);
    hash.add_part(std::to_string(shard.size_bytes));
    hash.add_part(shard.header_json);
  }
  hash.add_part(source.config_text());
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
          {"output format", output_format_name(options.format)},
          {"kv cache", options.kv_cache ? kv_cache_name(*options.kv_cache) : "recipe"},
          {"compute dtype", compute_dtype_name(options.compute_dtype)},
          {"input scale", input_scale_text(options)},
          {"w2 input", kW2Inputs[static_cast<int>(options.w2_input)]},
          {"second moments", options.second_moments},
          {"negative zero", options.negative_zero == NegativeZero::kKeep ? "keep" : "modelopt"},
          {"calibration rows or amax file", activations}};
}

std::string identity_hash(const Json& identity) { return hash_of(identity.dump()); }

}  // namespace nibblecast
