#include "plan/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/build_info.h"
#include "base/error.h"
#include "base/hash.h"
#include "checkpoint/manifest.h"
#include "checkpoint/quantization.h"
#include "formats/fp8_to_mxfp4.h"
#include "formats/nvfp4.h"
#include "model/family.h"
#include "plan/auto_recipe.h"
#include "plan/dialects/modelopt.h"
#include "plan/engines.h"
#include "plan/inventory.h"
#include "plan/layout.h"
#include "plan/linear.h"
#include "plan/recipe_modules.h"
#include "plan/weight_sample.h"

namespace nibblecast {
namespace {

// Changes when the same input and options give other bytes.
constexpr std::string_view kFormatVersion = "nibblecast/1";
constexpr const char *kCachedKeys = "attn.k", *kCachedValues = "attn.v";  // taps of all decoders
// BF16 rounds RMSNorm's input and output and SwiGLU's factors: at most four half steps of 2^-9.
constexpr double kBf16Slack = 1 + 0x1p-7;

// Length first, so that parts cannot run into one another.
void add_part(Hash& hash, std::string_view part) {
  hash.add(std::to_string(part.size()) + ":");
  hash.add(part);
}

// The least and the largest magnitude of a norm's weight, as it multiplies.
struct NormRange {
  double least = std::numeric_limits<double>::max(), largest = 0;
};

NormRange norm_range(const Checkpoint& source, TensorReader& reader, const Tap& tap) {
  const Tensor& norm = source.at(tap.norm);
  const std::vector<std::byte> bytes = reader.read(norm);
  const auto index = static_cast<uint32_t>(&norm - source.tensors().data());
  const LinearSource plain = plain_source(source, index);
  std::vector<float> weights(plain.format.rows * plain.format.cols);
  const std::span<const std::byte> part = bytes;
  const auto report = dequantize_rows(plain.view(plain.format.rows, std::span(&part, 1)), 0, plain.format.rows,
                                      weights.data(), plain.format.cols);
  if (report.non_finite) {
    throw Error(ErrorKind::kBadInput,
                {.file = source.where(norm).file,
                 .tensor = norm.name,
                 .offset = norm.offset + *report.non_finite * dtype_bytes(norm.dtype)},
                "a norm weight is not finite");
  }
  NormRange range;
  for (const float weight : weights) {
    const double magnitude = std::fabs(double{weight} + (tap.norm_plus_one ? 1 : 0));
    range.least = std::min(range.least, magnitude);
    range.largest = std::max(range.largest, magnitude);
  }
  return range;
}

class Planner {
 public:
  Planner(const Checkpoint& source, const QuantizeOptions& options) : source_(source) {
    refuse_foreign_format(source);
    const std::string config_file = (source.folder() / "config.json").string();
    plan_.weights = weight_sample(source);
    tiles_ = tile_size(source.config(), config_file);
    plan_.model = std::make_shared<const Model>(read_model(source.config(), config_file));
    plan_.options = resolved_options(options, *plan_.model);
    recipe_ = recipe_of(source.files(), plan_.options);
    plan_.options.recipe_text = recipe_.text;
    modules_ = resolve_modules(recipe_, plan_.model->table, tiles_);
    inventory_ = take_inventory(source, *plan_.model, tiles_);
    fp8_scales_ = fp8_scale_dtype();
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
  const ModelTable& table() const { return plan_.model->table; }

  // What becomes of each linear, and of each source tensor.
  void decide() {
    replacements_ = keep_all(source_);
    Hash decisions;
    for (const ResolvedModule& resolved : modules_) {
      SourceLinear linear{.module = resolved.module->name, .source = inventory_.linears.at(resolved.module)};
      const LinearMake make = make_of(resolved, linear.source);
      add_part(decisions, fmt::format("{} {} {} {}{}", linear.module, static_cast<int>(make.make),
                                      static_cast<int>(resolved.recipe.method), make.quantize_input,
                                      tries_cast(resolved, linear.source.format) ? " try" : ""));
      replace_linear(linear, make, replacements_);
      makes_.push_back(make.make);
      linears_.push_back(std::move(linear));
    }
    widen_drafts();
    if (recipe_.kv_cache == KvCache::kFp8) add_cache_scales();
    plan_.made = recipe_.name + " " + decisions.hex();
    warn_of_widened();
  }

  LinearMake make_of(const ResolvedModule& resolved, const LinearSource& source) const {
    LinearMake make = make_of(resolved, source.format);
    // A matrix of a stack stands for itself by itself: engines read experts one by one.
    if (make.make == Make::kKeep && source.weight.size_bytes < source_.tensors()[source.weight.tensor].size_bytes) {
      make.make = Make::kWideWeight;
      make.dtype = source_.tensors()[source.weight.tensor].dtype;
    }
    return make;
  }
  LinearMake make_of(const ResolvedModule& resolved, const LinearFormat& format) const {
    LinearMake make{.quantize_input = resolved.recipe.quantize_input,
                    .tile_rows = tiles_.rows,
                    .tile_cols = tiles_.cols};
    switch (resolved.recipe.format) {
      case WeightFormat::kKeep:
        if (!stays(format)) make.make = Make::kWideWeight;
        break;
      case WeightFormat::kNvfp4:
        make.make = resolved.recipe.method == RecipeMethod::kCast && format.stored == StoredFormat::kMxfp4
                        ? Make::kCastWeight
                        : Make::kNvfp4Weight;
        break;
      case WeightFormat::kFp8:
        make.make = Make::kFp8Weight;
        break;
      case WeightFormat::kFp8Block:
        if (format.stored != StoredFormat::kFp8) make.make = Make::kFp8BlockWeight;
        make.dtype = fp8_scales_;
        break;
      case WeightFormat::kBf16:
        if (format.stored != StoredFormat::kBf16) make.make = Make::kWideWeight;
        break;
      case WeightFormat::kF32:
        if (format.stored != StoredFormat::kF32) make.make = Make::kWideWeight;
        make.dtype = Dtype::kF32;
        break;
    }
    return make;
  }

  static bool tries_cast(const ResolvedModule& resolved, const LinearFormat& format) {
    return resolved.recipe.format == WeightFormat::kNvfp4 && resolved.recipe.method == RecipeMethod::kCast &&
           resolved.module->is_routed_expert() && format.stored == StoredFormat::kFp8 &&
           has_blocks_of_32(format.cols, format.tile_cols);
  }

  // ModelOpt's form has no word for what the source has quantized otherwise: as BF16 it is what the form says
  // of it, a module that is not quantized.
  bool stays(const LinearFormat& format) const {
    return plan_.options.format == OutputFormat::kModelOptV4 || format.stored == StoredFormat::kBf16 ||
           format.stored == StoredFormat::kF32;
  }

  // The same of draft layers, which no recipe speaks of.
  void widen_drafts() {
    constexpr std::string_view kSuffix = ".weight";
    for (const Tensor& tensor : source_.tensors()) {
      if (!table().passes_through(tensor.name) || !tensor.name.ends_with(kSuffix)) continue;
      if (tensor.dtype == Dtype::kBF16 || tensor.dtype == Dtype::kF32) continue;
      const std::string module = tensor.name.substr(0, tensor.name.size() - kSuffix.size());
      const std::optional<LinearParts> parts = find_linear(source_, module, tiles_);
      if (!parts || stays(parts->format)) continue;
      drafts_.push_back({.module = module, .source = source_of(source_, *parts)});
      replace_linear(drafts_.back(), {.make = Make::kWideWeight}, replacements_);
    }
  }

  // Of the source's own FP8 weights, so that one config speaks for all.
  Dtype fp8_scale_dtype() const {
    for (const ResolvedModule& resolved : modules_) {
      const LinearSource& linear = inventory_.linears.at(resolved.module);
      if (linear.format.stored == StoredFormat::kFp8 && !resolved.module->is_routed_expert())
        return source_.tensors()[linear.scale.tensor].dtype;
    }
    return Dtype::kF8E8M0;
  }

  // FP8 keys and values with measured scales, as ModelOpt has them: one of each a layer.
  void add_cache_scales() {
    if (plan_.options.format != OutputFormat::kModelOpt) return;  // refused where the documents are made
    for (size_t module = 0; module < modules_.size(); ++module) {
      const Role role = modules_[module].module->id.role;
      if (role != Role::kK && role != Role::kV) continue;
      const std::string name = linears_[module].module + (role == Role::kK ? ".k_scale" : ".v_scale");
      replacements_.scalars[linears_[module].source.weight.tensor].push_back(
          {Make::kCacheScale, name, Dtype::kF32, {}});
      cache_scales_.emplace_back(modules_[module].module, name);
    }
  }

  void warn_of_widened() {
    size_t count = drafts_.size();
    for (size_t module = 0; module < modules_.size(); ++module)
      count += modules_[module].recipe.format == WeightFormat::kKeep && !stays(linears_[module].source.format);
    if (count == 0) return;
    warn(fmt::format("{} weights that the recipe keeps are FP8 or FP4 in the source and become BF16: ModelOpt's "
                     "form cannot say what they are",
                     count));
  }

  void order_work() {
    plan_.stages.resize(plan_.layers() + 2);
    for (uint64_t layer = 0; layer < plan_.layers(); ++layer) plan_.stages[layer + 1].layer = layer;
    const auto indices = indices_by_name(plan_);
    size_t first = 0;  // module of the layer
    for (; first < modules_.size() && modules_[first].module->id.layer < 0; ++first) add_lone(first, indices);
    for (const SourceLinear& draft : drafts_)
      add_group({.expert = {}, .linears = {planned_linear(draft, indices)}}, plan_.stages.back(), plan_);
    for (uint64_t layer = 0; layer < plan_.layers(); ++layer) {
      const size_t count = table().layers[layer].modules.size();
      add_dense_groups(layer, first, count, indices);
      add_mlps(layer, first, count, indices);
      first += count;
    }
    for (const auto& [module, name] : cache_scales_) {
      plan_.stages[static_cast<size_t>(module->id.layer) + 1].cache_scales.push_back(
          {indices.at(name), module->id.role == Role::kK ? kCachedKeys : kCachedValues});
    }
    add_kept();
  }

  // What no group has.
  void add_kept() {
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

  using Indices = std::unordered_map<std::string, uint32_t>;

  PlannedLinear linear_of(size_t module, const Indices& indices) const {
    PlannedLinear linear = planned_linear(linears_[module], indices);
    linear.module = modules_[module].module;
    linear.method = requantize_method(modules_[module].recipe.method);
    linear.try_cast = tries_cast(modules_[module], linear.source.format);
    if (makes_[module] == Make::kKeep) linear.weight_scale = linear.input_scale = kNone;  // copied as they are
    return linear;
  }

  void add_lone(size_t module, const Indices& indices) {
    if (makes_[module] == Make::kKeep) return;
    add_group({.expert = {}, .linears = {linear_of(module, indices)}},
              stage_of(linears_[module].source.weight.tensor), plan_);
  }

  // Linears of one tap get a common scale: a group for each, then what shares nothing.
  void add_dense_groups(uint64_t layer, size_t first, size_t count, const Indices& indices) {
    const auto shares = [](Make make) { return make == Make::kNvfp4Weight || make == Make::kFp8Weight; };
    for (uint16_t tap = 0; tap < table().layers[layer].taps.size(); ++tap) {
      PlannedGroup group;
      for (size_t module = first; module < first + count; ++module) {
        if (modules_[module].module->streams() || modules_[module].module->tap != tap) continue;
        if (!shares(makes_[module])) continue;
        group.linears.push_back(linear_of(module, indices));
        // NVFP4 and FP8 linears of a group have each their own common amax.
        group.linears.back().share = makes_[module] == Make::kNvfp4Weight ? 0 : 1;
      }
      if (group.linears.empty()) continue;
      check_methods(group);
      add_group(std::move(group), plan_.stages[layer + 1], plan_);
    }
    for (size_t module = first; module < first + count; ++module)
      if (!modules_[module].module->streams() && !shares(makes_[module])) add_lone(module, indices);
  }

  // Kept ones too: the forward pass takes them one by one.
  void add_mlps(uint64_t layer, size_t first, size_t count, const Indices& indices) {
    PlannedGroup group;
    const auto finish = [&] {
      if (group.linears.empty()) return;
      check_methods(group);
      add_group(std::move(group), plan_.stages[layer + 1], plan_);
      group = {};
    };
    for (size_t module = first; module < first + count; ++module) {
      const WeightModule& found = *modules_[module].module;
      if (!found.streams()) continue;
      const auto expert = static_cast<uint64_t>(std::max(0, found.id.expert));
      if (group.expert && *group.expert != expert) finish();
      group.expert = expert;
      group.linears.push_back(linear_of(module, indices));
      group.linears.back().share = found.id.role == Role::kDown ? 1 : 0;
    }
    finish();
  }

  // Linears that share their amax share their scale too, which only one method gives.
  void check_methods(const PlannedGroup& group) const {
    for (const PlannedLinear& linear : group.linears) {
      const auto first = std::ranges::find(group.linears, linear.share, &PlannedLinear::share);
      if (plan_.tensors[first->weight].make == plan_.tensors[linear.weight].make &&
          first->method == linear.method)
        continue;
      throw Error(ErrorKind::kUnsupported, {.file = recipe_.origin, .tensor = linear.module->name + ".weight"},
                  fmt::format("shares its scale with {}, to which the recipe gives another format or "
                              "weight_method",
                              first->module->name),
                  {.hint = "give both the same one"});
    }
  }

  void bound_activations() {
    TensorReader reader(source_);
    const double slack = plan_.options.compute_dtype == ComputeDtype::kBF16 ? kBf16Slack : 1;
    const auto rounded_up = [&](double bound) {
      return std::nextafter(static_cast<float>(bound * slack), INFINITY);
    };
    for (const LayerTable& layer : table().layers) {
      std::vector<TapBound>& bounds = plan_.bounds.emplace_back();
      std::unordered_map<std::string_view, NormRange> norms;  // several taps may have one
      for (const Tap& tap : layer.taps) {
        TapBound& bound = bounds.emplace_back();
        if (std::isfinite(tap.most)) bound.most = rounded_up(tap.most);
        if (std::isfinite(tap.most_weighted)) bound.most_weighted = rounded_up(tap.most_weighted);
        if (tap.norm.empty()) continue;
        const auto [norm, is_new] = norms.try_emplace(tap.norm);
        if (is_new) norm->second = norm_range(source_, reader, tap);
        bound.most = rounded_up(std::sqrt(static_cast<double>(tap.width)) * norm->second.largest);
        bound.least = static_cast<float>(norm->second.least / kBf16Slack);
      }
    }
  }

  // What weights prove of a constant: in how many layers it could clip, and of which linears nothing is
  // proven.
  void check_constant_scale() {
    const float largest = kNvfp4Max * plan_.options.constant_input_scale;
    uint64_t unproven = 0, unsafe_layers = 0, layers = 0;
    float bound = 0;
    for (const Stage& stage : plan_.stages) {
      float in_layer = 0;
      for (const PlannedGroup& group : stage.groups) {
        for (const PlannedLinear& linear : group.linears) {
          if (linear.input_scale == kNone) continue;
          const uint16_t tap = linear.module->tap;
          const float most = tap == kNoTap ? INFINITY
                                           : most_of(plan_, table().layers[*stage.layer].taps[tap],
                                                     plan_.bounds[*stage.layer][tap]);
          if (std::isfinite(most))
            in_layer = std::max(in_layer, most);
          else
            ++unproven;
        }
      }
      if (in_layer == 0) continue;
      ++layers;
      unsafe_layers += !(in_layer <= largest);
      bound = std::max(bound, in_layer);
    }
    const std::string constant =
        fmt::format("a constant input_scale of {} represents activations up to {:.6g}",
                    plan_.options.constant_input_scale, largest);
    if (unsafe_layers > 0) {
      warn(
          fmt::format("{}; in {} of {} layers the weights allow more, up to {:.6g}: what is above is clipped",
                      constant, unsafe_layers, layers, bound));
    }
    if (unproven > 0)
      warn(fmt::format("{}; the weights prove no bound for the inputs of {} linears", constant, unproven));
  }

  void count_flops() {
    for (uint64_t layer = 0; layer < plan_.layers(); ++layer)
      plan_.flops_per_token += layer_flops(*plan_.model, layer).sum();
    plan_.flops_per_token += head_flops(*plan_.model);
  }

  // The JSON documents of the output, and what recipe and engines say of them.
  void describe() {
    plan_.options.format == OutputFormat::kModelOptV4 ? describe_as_v4() : describe_as_modelopt();
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
    ask_engines();
  }

  void describe_as_v4() {
    const std::vector<ManifestModule> modules = manifest_modules(modules_);
    const Manifest manifest{.modules = modules,
                            .fp8_kv_cache = recipe_.kv_cache == KvCache::kFp8Cast,
                            .producer_version = NIBBLECAST_VERSION};
    plan_.config = output_config(source_.config(), manifest);
    plan_.hf_quant_config = output_hf_quant_config(manifest);
    if (std::optional<std::string> sentence = check_kv_cache(recipe_.kv_cache)) warn(std::move(*sentence));
  }

  void describe_as_modelopt() {
    ModelOptDocuments documents =
        modelopt_documents(source_, table(), modules_, recipe_.kv_cache, NIBBLECAST_VERSION);
    plan_.config = std::move(documents.config);
    plan_.hf_quant_config = std::move(documents.hf_quant_config);
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
  Dtype fp8_scales_ = Dtype::kF8E8M0;  // of weights that become FP8 blocks
  TileSize tiles_;
  std::vector<SourceLinear> linears_;  // by module
  std::vector<Make> makes_;            // by module
  std::vector<std::pair<const WeightModule*, std::string>> cache_scales_;  // k_proj or v_proj, and its name
  std::vector<SourceLinear> drafts_;   // that no recipe speaks of and that cannot stay as they are
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
  const bool measured = options.input_scale != InputScalePolicy::kConstant;
  return std::ranges::any_of(tensors, [&](const PlannedTensor& tensor) {
    return tensor.make == Make::kCacheScale || (measured && tensor.make == Make::kInputScale);
  });
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
  return check_contracts(*plan.model, plan.config, plan.hf_quant_config, outs);
}

float most_of(const Plan& plan, const Tap& tap, const TapBound& bound) {
  if (!tap.weighted || plan.options.w2_input == W2Input::kUnweighted) return bound.most;
  return plan.options.w2_input == W2Input::kWeighted ? bound.most_weighted
                                                     : std::max(bound.most, bound.most_weighted);
}

QuantizeOptions resolved_options(QuantizeOptions options, const Model& model) {
  if (options.recipe == kAutoRecipe && options.recipe_text.empty()) options.recipe = auto_recipe(model);
  const bool is_v4 = std::holds_alternative<DeepseekV4Config>(model.spec);
  const OutputFormat own = is_v4 ? OutputFormat::kModelOptV4 : OutputFormat::kModelOpt;
  if (options.format == OutputFormat::kAuto) options.format = own;
  if (options.format == own) return options;
  throw Error(ErrorKind::kUnsupported, {},
              fmt::format("--format {}: {} models are not written so", output_format_name(options.format),
                          model.model_type),
              {.expected = std::string(output_format_name(own)), .found = {}, .hint = "leave --format out"});
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
