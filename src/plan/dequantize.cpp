#include "plan/dequantize.h"

#include <fmt/format.h>

#include <map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "checkpoint/manifest.h"
#include "model/family.h"
#include "plan/linear.h"
#include "plan/packed_linears.h"
#include "plan/weight_sample.h"

namespace nibblecast {
namespace {

const char* dtype_word(Dtype dtype) { return dtype == Dtype::kF32 ? "float32" : "bfloat16"; }

class DequantizePlanner {
 public:
  DequantizePlanner(const Checkpoint& source, const DequantizeOptions& options)
      : source_(source), options_(options), dtype_(options.dtype), replacements_(keep_all(source)) {}

  Plan make() {
    plan_.command = "dequantize";
    plan_.made = dequantize_text(options_);
    plan_.weights = weight_sample(source_);
    for (const PackedLinear& packed : find_packed_linears(source_)) widen(packed);
    for (uint32_t index = 0; index < source_.tensors().size(); ++index) look_at(index);
    plan_.config = dequantized_config(source_.config(), dtype_word(dtype_));
    if (options_.names == TensorNames::kTransformers) rename();
    lay_out(source_, replacements_, plan_);
    order_work();
    index_output(source_, plan_);
    return std::move(plan_);
  }

 private:
  void widen(const PackedLinear& packed) {
    replace_linear(packed.linear, {.make = Make::kWideWeight, .dtype = dtype_}, {}, replacements_);
    if (packed.input_scale != kNone) replacements_.in_place[packed.input_scale].clear();
    linears_.push_back(packed.linear);
  }

  // Of the tensors that nothing was said of yet.
  void look_at(uint32_t index) {
    if (replacements_.in_place[index].empty()) return;  // a scale
    const Tensor& tensor = source_.tensors()[index];
    if (tensor.dtype == Dtype::kF8E5M2) {
      throw Error(
          ErrorKind::kUnsupported, source_.where(tensor),
          fmt::format("is {}, which `dequantize` does not read", dtype_name(tensor.dtype)),
          {.expected = "BF16, F16, F32, FP8 (E4M3) or FP4 with their scales, or integers", .hint = {}});
    }
    const bool is_narrow = tensor.dtype == Dtype::kBF16 || tensor.dtype == Dtype::kF16;
    if (!is_narrow || dtype_ != Dtype::kF32) return;
    OutputTensor& out = replacements_.in_place[index][0];
    out.dtype = dtype_;
    if (tensor.size_bytes == 0) return;  // no value to widen
    out.make = Make::kWideWeight;
    plain_.push_back(index);
  }

  // ---- transformers' names ----

  void rename() {
    const std::string file = (source_.folder() / "config.json").string();
    const Family& family = family_of(source_.config(), file);
    if (family.hub_tensor == nullptr) {
      throw Error(ErrorKind::kUnsupported, {.file = file},
                  "this family's tensors have transformers' names already",
                  {.hint = "leave out --names transformers"});
    }
    const Model model = family.read(source_.config(), file);
    std::map<std::string, std::vector<OutputTensor>> stacks;  // by name: their parts
    for (uint32_t index = 0; index < source_.tensors().size(); ++index) {
      std::vector<OutputTensor>& place = replacements_.in_place[index];
      const Tensor& tensor = source_.tensors()[index];
      if (place.empty() || model.table.passes_through(tensor.name)) continue;
      const std::optional<HubTensor> hub = family.hub_tensor(model, tensor.name);
      if (!hub) {
        throw Error(ErrorKind::kUnsupported, source_.where(tensor), "has no place in transformers' model",
                    {.hint = "leave out --names transformers: transformers loads official names too"});
      }
      if (!hub->whole) {
        place[0].name = hub->name;
        continue;
      }
      add_part(index, *hub, stacks[hub->name]);
      place.clear();
    }
    for (auto& [name, parts] : stacks) put_stack(name, std::move(parts));
    plan_.config = family.hub_config(plan_.config, model);
  }

  void add_part(uint32_t index, const HubTensor& hub, std::vector<OutputTensor>& parts) {
    OutputTensor part = replacements_.in_place[index][0];
    parts.resize(hub.parts);
    const Shape& whole = *hub.whole;
    const Shape expected = {whole[0] * whole[1] / hub.parts, whole[2]};
    if (part.shape != expected) {
      throw Error(ErrorKind::kBadInput, source_.where(source_.tensors()[index]), "does not fit the config",
                  {.expected = shape_text(expected), .found = shape_text(part.shape)});
    }
    part.name = fmt::format("{}[{}]", hub.name, hub.part);
    part.part = StackPart{.whole = hub.name, .shape = *hub.whole, .index = hub.part, .count = hub.parts};
    part.source = index;
    out_names_[index] = part.name;
    parts[hub.part] = std::move(part);
  }

  // In place of its first part.
  void put_stack(const std::string& name, std::vector<OutputTensor> parts) {
    for (const OutputTensor& part : parts) {
      if (part.source == kNone || part.dtype != parts[0].dtype) {
        throw Error(ErrorKind::kBadInput, {.file = source_.folder().string(), .tensor = name},
                    part.source == kNone ? "an expert's weight is missing"
                                         : "the experts' weights are of several dtypes");
      }
    }
    const uint32_t first = parts[0].source;
    replacements_.in_place[first] = std::move(parts);
  }

  // ---- the work ----

  void order_work() {
    const auto indices = indices_by_name(plan_);
    const auto out = [&](uint32_t index) {
      const auto stacked = out_names_.find(index);
      if (stacked != out_names_.end()) return indices.at(stacked->second);
      return indices.at(replacements_.in_place[index][0].name);
    };
    std::vector<PlannedLinear> linears;
    for (const SourceLinear& linear : linears_)
      linears.push_back({.source = linear.source, .weight = out(linear.source.weight.tensor)});
    for (const uint32_t index : plain_)
      linears.push_back({.source = plain_source(source_, index), .weight = out(index)});
    add_only_stage(source_, linears, plan_);
  }

  const Checkpoint& source_;
  const DequantizeOptions options_;
  const Dtype dtype_;
  Plan plan_;
  Replacements replacements_;
  std::vector<SourceLinear> linears_;
  std::vector<uint32_t> plain_;                // BF16 and F16 that become F32
  std::map<uint32_t, std::string> out_names_;  // by source tensor: of the parts of stacks
};

}  // namespace

std::string dequantize_text(const DequantizeOptions& options) {
  return std::string("dequantize ") + dtype_word(options.dtype) +
         (options.names == TensorNames::kTransformers ? " transformers names" : "");
}

std::optional<DequantizeOptions> parse_dequantize(std::string_view text) {
  for (const Dtype dtype : {Dtype::kBF16, Dtype::kF32}) {
    for (const TensorNames names : {TensorNames::kOfficial, TensorNames::kTransformers}) {
      const DequantizeOptions options{.dtype = dtype, .names = names};
      if (dequantize_text(options) == text) return options;
    }
  }
  return std::nullopt;
}

Plan make_dequantize_plan(const Checkpoint& source, const DequantizeOptions& options) {
  return DequantizePlanner(source, options).make();
}

}  // namespace nibblecast
