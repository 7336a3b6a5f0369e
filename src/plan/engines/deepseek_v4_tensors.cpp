#include "plan/engines/deepseek_v4_tensors.h"

#include <algorithm>
#include <optional>

#include "model/deepseek_v4_names.h"

namespace nibblecast {
namespace {

void add_part(ExpertParts& parts, const std::string& kind, const Tensor& tensor) {
  if (kind == "weight")
    parts.weight = &tensor;
  else if (kind == "weight_scale")
    parts.weight_scale = &tensor;
  else if (kind == "weight_scale_2")
    parts.weight_scale_2 = &tensor;
  else if (kind == "input_scale")
    parts.input_scale = &tensor;
  else
    parts.others.push_back(&tensor);
}

}  // namespace

V4Tensors::V4Tensors(std::span<const Tensor> tensors) : formats(experts_formats(tensors)) {
  for (const Tensor& tensor : tensors) add(tensor);
}

void V4Tensors::add(const Tensor& tensor) {
  const size_t dot = tensor.name.rfind('.');
  if (dot == std::string::npos) return;
  const std::string module = tensor.name.substr(0, dot);
  const std::string kind = tensor.name.substr(dot + 1);
  if (add_draft(tensor, module, kind)) return;
  if (tensor.dtype == Dtype::kF8E4M3 && kind == "weight") fp8_modules.insert(module);
  if (kind == "weight" && (tensor.dtype == Dtype::kBF16 || tensor.dtype == Dtype::kF32))
    plain_modules.insert(module);
  const std::optional<ExpertName> name = parse_expert_name(module);
  if (!name) return;
  layers[name->layer].insert(name->expert);
  add_part(experts[module], kind, tensor);
}

bool V4Tensors::add_draft(const Tensor& tensor, const std::string& module, const std::string& kind) {
  const size_t at = module.find(".ffn.experts.");
  if (!tensor.name.starts_with("mtp.") || at == std::string::npos) return false;
  DraftExperts& draft = drafts[module.substr(0, at) + ".ffn.experts"];
  draft.is_nvfp4 |= kind == "weight_scale";
  draft.is_mxfp4 &= kind != "weight" || tensor.dtype == Dtype::kI8;
  draft.is_mxfp4 &= kind != "scale" || tensor.dtype == Dtype::kF8E8M0;
  return true;
}

bool V4Tensors::has_format(uint64_t layer, ExpertsFormat format) const {
  const auto found = formats.find(layer);
  return found != formats.end() && found->second == format;
}

bool V4Tensors::has_any(std::initializer_list<ExpertsFormat> wanted) const {
  return std::ranges::any_of(
      formats, [&](const auto& layer) { return std::ranges::find(wanted, layer.second) != wanted.end(); });
}

}  // namespace nibblecast
