#include "plan/retarget.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "checkpoint/fetch_ahead.h"
#include "model/family.h"
#include "plan/dialects/dialect.h"
#include "plan/engines.h"
#include "plan/engines/units.h"
#include "plan/inventory.h"
#include "plan/layout.h"
#include "plan/linear.h"
#include "plan/packed_linears.h"
#include "plan/weight_sample.h"

namespace nibblecast {
namespace {

constexpr std::string_view kCommand = "convert ";

std::string config_file(const Checkpoint& source) { return (source.folder() / "config.json").string(); }

// Whether config.json says that the inputs of every quantized linear are quantized too.
bool declares_inputs(const Json& config) {
  const Json quantization = at_or_null(config, "quantization_config");
  const Json groups = at_or_null(quantization, "config_groups");
  if (!groups.is_object() || groups.empty()) return at_or_null(quantization, "quant_algo") == "NVFP4";
  return std::ranges::all_of(
      groups, [](const Json& group) { return !at_or_null(group, "input_activations").is_null(); });
}

// What inverting does to float32 scales.
struct Inversions {
  uint64_t scales = 0, changed = 0;
  double largest = 0;  // relative difference of 1 / (1 / x) and x

  void add(float value) {
    const float back = 1 / (1 / value);
    ++scales;
    changed += back != value;
    largest = std::max(largest, std::fabs(double{back} - double{value}) / double{value});
  }
};

class Retargeter {
 public:
  Retargeter(const Checkpoint& source, OutputFormat format)
      : source_(source),
        names_(dialect_of(format).names),
        model_(std::make_shared<const Model>(read_model(source.config(), config_file(source)))),
        reader_(source),
        replacements_(keep_all(source)) {
    plan_.command = "convert";
    plan_.made = retarget_text(format);
    plan_.options.format = format;
    plan_.model = model_;
  }

  Plan make() {
    require_format();
    plan_.weights = weight_sample(source_);
    take_inventory(source_, *model_, tile_size(source_.config(), config_file(source_)), Storage::kAny);
    refuse_cache_scales();
    for (PackedLinear& packed : find_packed_linears(source_)) {
      std::string name = packed.linear.module;
      packed_.emplace(std::move(name), std::move(packed));
    }
    resolve_table();
    fetch_scalars();
    compare_units();
    rename();
    describe();
    return std::move(plan_);
  }

 private:
  void require_format() const {
    const std::vector<OutputFormat> formats = formats_of(*model_);
    if (std::ranges::find(formats, plan_.options.format) != formats.end()) return;
    throw Error(ErrorKind::kUnsupported, {.file = config_file(source_)},
                fmt::format("convert --format {}: {} models are not written so",
                            output_format_name(plan_.options.format), model_->model_type),
                {.hint = "their own form is the only one"});
  }

  void refuse_cache_scales() const {
    for (const Tensor& tensor : source_.tensors()) {
      if (!tensor.name.ends_with(".k_scale") && !tensor.name.ends_with(".v_scale")) continue;
      throw Error(ErrorKind::kUnsupported, source_.where(tensor),
                  "is a scale of the KV cache, which `convert --format` does not carry over",
                  {.hint = "quantize the model anew with the format that is wanted"});
    }
  }

  // ---- what is there ----

  void resolve_table() {
    resolve(model_->table.globals);
    for (const LayerTable& layer : model_->table.layers) resolve(layer);
    for (const auto& [name, packed] : packed_) {
      if (known_.contains(name)) continue;
      throw Error(ErrorKind::kUnsupported, where(packed), "is quantized, and no part of the model's layers",
                  {.hint = "`convert --format` knows plain draft layers only"});
    }
    if (std::ranges::none_of(modules_, [](const ResolvedModule& each) {
          return each.recipe.format == WeightFormat::kNvfp4;
        })) {
      throw Error(ErrorKind::kBadInput, {.file = source_.folder().string()}, "holds no NVFP4 weights",
                  {.hint = "`nibblecast quantize` makes them"});
    }
  }

  Where where(const PackedLinear& packed) const {
    return source_.where(source_.tensors()[packed.linear.source.weight.tensor]);
  }

  void resolve(const LayerTable& table) {
    for (const WeightModule& module : table.modules) {
      known_.insert(module.name);
      modules_.push_back({.module = &module, .recipe = {.rule = "the source"}});
      ModuleRecipe& recipe = modules_.back().recipe;
      const auto packed = packed_.find(module.name);
      if (packed == packed_.end()) continue;
      recipe.format = format_of(packed->second);
      recipe.quantize_input = packed->second.input_scale != kNone;
      require_input(packed->second);
    }
  }

  WeightFormat format_of(const PackedLinear& packed) const {
    const LinearSource& source = packed.linear.source;
    if (source.format.stored == StoredFormat::kNvfp4) {
      if (source.format.reciprocal_scales != names_.reciprocal_scales) return WeightFormat::kNvfp4;
      throw Error(ErrorKind::kUnsupported, where(packed),
                  fmt::format("is stored in the form `{}` already", output_format_name(plan_.options.format)),
                  {.hint = {}});
    }
    const bool has_one_scale = source.format.stored == StoredFormat::kFp8 && source.scale.size_bytes == 4;
    if (has_one_scale) return WeightFormat::kFp8;
    throw Error(ErrorKind::kUnsupported, where(packed),
                "is neither NVFP4 nor FP8 with one scale, which is all that `convert --format` carries over",
                {.hint = "`nibblecast inspect` shows the formats of a checkpoint"});
  }

  void require_input(const PackedLinear& packed) const {
    if (packed.input_scale != kNone || !declares_inputs(source_.config())) return;
    throw Error(ErrorKind::kBadInput, where(packed), "lacks its input scale, which config.json says it has",
                {.hint = "the checkpoint is not whole"});
  }

  // ---- scales ----

  // All at once, where the source is on a server.
  void fetch_scalars() const {
    std::vector<TensorPart> parts;
    const auto add = [&](uint32_t index) {
      const Tensor& tensor = source_.tensors()[index];
      if (tensor.size_bytes == sizeof(float)) parts.push_back({&tensor, tensor.size_bytes});
    };
    for (const auto& [name, packed] : packed_) {
      if (packed.linear.source.format.stored != StoredFormat::kNvfp4) continue;
      add(packed.linear.source.scale_2.tensor);
      if (packed.input_scale != kNone) add(packed.input_scale);
    }
    fetch_ahead(source_, std::move(parts));
  }

  float scalar(uint32_t index) {
    const Tensor& tensor = source_.tensors()[index];
    const auto refuse = [&](const std::string& found) {
      throw Error(ErrorKind::kBadInput, source_.where(tensor), "is no scale that can be inverted",
                  {.expected = "one F32 value, positive and finite, as its reciprocal is", .found = found});
    };
    float value = 0;
    if (tensor.dtype != Dtype::kF32 || tensor.size_bytes != sizeof value)
      refuse(fmt::format("{} {}", dtype_name(tensor.dtype), shape_text(tensor.shape)));
    reader_.read(tensor, 0, std::as_writable_bytes(std::span(&value, 1)));
    if (!(value > 0) || !std::isfinite(value) || !std::isfinite(1 / value)) refuse(fmt::format("{}", value));
    return value;
  }

  // Of linears that engines run as one, which have one value for all.
  void compare_units() {
    for (const EngineUnit& unit : engine_units(model_->table)) {
      if (unit.kind == EngineUnit::Kind::kSingle) continue;
      std::map<int32_t, const WeightModule*> first;  // by expert
      for (const WeightModule* module : unit.modules) {
        const auto packed = packed_.find(module->name);
        if (packed == packed_.end() || packed->second.linear.source.format.stored != StoredFormat::kNvfp4)
          continue;
        if (unit.kind == EngineUnit::Kind::kExperts && module->id.role == Role::kDown) continue;
        const auto [known, is_new] = first.try_emplace(module->id.expert, module);
        if (!is_new) compare(packed_.at(known->second->name), packed->second);
      }
    }
  }

  void compare(const PackedLinear& a, const PackedLinear& b) {
    compare(a.linear.source.scale_2.tensor, b.linear.source.scale_2.tensor);
    if ((a.input_scale == kNone) != (b.input_scale == kNone)) {
      refuse(
          fmt::format("{} and {}: one has an input scale, one has none", a.linear.module, b.linear.module));
    } else if (a.input_scale != kNone) {
      compare(a.input_scale, b.input_scale);
    }
  }

  void compare(uint32_t a, uint32_t b) {
    const float first = scalar(a), second = scalar(b);
    if (std::bit_cast<uint32_t>(first) == std::bit_cast<uint32_t>(second)) return;
    refuse(fmt::format("{} is {}, {} is {}: engines take one value for both", source_.tensors()[a].name,
                       first, source_.tensors()[b].name, second));
  }

  // The first says enough.
  void refuse(std::string reason) {
    if (plan_.refused()) return;
    plan_.findings.push_back({.severity = Severity::kRefusal,
                              .reason = std::move(reason),
                              .remedy = "quantize the model anew: nibblecast gives them a common scale"});
  }

  void warn(std::string reason) {
    plan_.findings.push_back({.severity = Severity::kWarning, .reason = std::move(reason), .remedy = {}});
  }

  // ---- the output ----

  OutputTensor& out(uint32_t index) { return replacements_.in_place[index].front(); }

  void rename() {
    for (const auto& [name, packed] : packed_) {
      const LinearSource& source = packed.linear.source;
      if (source.format.stored != StoredFormat::kNvfp4) {
        reshape(source.scale.tensor);
        if (packed.input_scale != kNone) reshape(packed.input_scale);
        continue;
      }
      OutputTensor& weight = out(source.weight.tensor);
      weight.name = name + std::string(names_.weight);
      weight.dtype = Dtype::kU8;
      weight.shape = {source.format.rows, source.format.cols / 2};
      out(source.scale.tensor).name = name + std::string(names_.block_scale);
      invert(source.scale_2.tensor, name + std::string(names_.scale_2));
      if (packed.input_scale != kNone) invert(packed.input_scale, name + std::string(names_.input_scale));
    }
    lay_out(source_, replacements_, plan_);
    indices_by_name(plan_);  // which are distinct
    add_only_stage(source_, {}, plan_);
  }

  void reshape(uint32_t index) { out(index).shape = names_.scalars_have_axis ? Shape{1} : Shape{}; }

  void invert(uint32_t index, std::string name) {
    inversions_.add(scalar(index));
    reshape(index);
    out(index).name = std::move(name);
    out(index).reciprocal = true;
  }

  KvCache kv_cache() const {
    const Json scheme = at_or_null(at_or_null(source_.config(), "quantization_config"), "kv_cache_scheme");
    return scheme.is_null() ? KvCache::kNone : KvCache::kFp8Cast;
  }

  void describe() {
    Documents documents = dialect_of(plan_.options.format)
                              .documents({.source = source_,
                                          .model = *model_,
                                          .modules = modules_,
                                          .kv_cache = kv_cache(),
                                          .version = NIBBLECAST_VERSION});
    plan_.config = std::move(documents.config);
    plan_.hf_quant_config = std::move(documents.hf_quant_config);
    for (std::string& sentence : documents.warnings) warn(std::move(sentence));
    index_output(source_, plan_);
    if (inversions_.changed > 0)
      warn(
          fmt::format("{} of {} second-level scales do not return when inverted again; the largest relative "
                      "difference is {:.2g}",
                      inversions_.changed, inversions_.scales, inversions_.largest));
    for (const Breach& breach : breaches_of(plan_))
      warn(fmt::format("{} would not load the output: {}", engine_release(breach.engine), breach.rule));
  }

  const Checkpoint& source_;
  const LinearNames& names_;
  const std::shared_ptr<const Model> model_;
  TensorReader reader_;
  Replacements replacements_;
  Plan plan_;
  std::map<std::string, PackedLinear> packed_;  // by module
  std::set<std::string_view> known_;            // modules of the table
  std::vector<ResolvedModule> modules_;
  Inversions inversions_;
};

}  // namespace

std::string retarget_text(OutputFormat format) {
  return std::string(kCommand) + std::string(output_format_name(format));
}

std::optional<OutputFormat> parse_retarget(std::string_view text) {
  for (const OutputFormat format : {OutputFormat::kModelOpt, OutputFormat::kCompressedTensors})
    if (text == retarget_text(format)) return format;
  return std::nullopt;
}

Plan make_retarget_plan(const Checkpoint& source, OutputFormat format) {
  return Retargeter(source, format).make();
}

}  // namespace nibblecast
