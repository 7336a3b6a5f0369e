#include "plan/engines/deepseek_v4_formats.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <string_view>

#include "model/deepseek_v4_names.h"

namespace nibblecast {
namespace {

constexpr const char* kRemedy = "use the recipe nvfp4_experts_only, whose output it loads";

struct ReleaseFormat {
  std::string_view role;
  Dtype dtype;
};
// Of the modules a recipe can change, as V4-Pro and V4-Flash store them.
constexpr ReleaseFormat kReleaseFormats[] = {
    {"attn.compressor.wgate", Dtype::kBF16},
    {"attn.compressor.wkv", Dtype::kBF16},
    {"attn.indexer.compressor.wgate", Dtype::kBF16},
    {"attn.indexer.compressor.wkv", Dtype::kBF16},
    {"attn.indexer.weights_proj", Dtype::kBF16},
    {"attn.indexer.wq_b", Dtype::kF8E4M3},
    {"attn.wkv", Dtype::kF8E4M3},
    {"attn.wo_a", Dtype::kF8E4M3},
    {"attn.wo_b", Dtype::kF8E4M3},
    {"attn.wq_a", Dtype::kF8E4M3},
    {"attn.wq_b", Dtype::kF8E4M3},
    {"embed", Dtype::kBF16},
    {"ffn.gate", Dtype::kBF16},
    {"ffn.shared_experts.w1", Dtype::kF8E4M3},
    {"ffn.shared_experts.w2", Dtype::kF8E4M3},
    {"ffn.shared_experts.w3", Dtype::kF8E4M3},
    {"head", Dtype::kBF16},
};

struct Name {
  std::string_view module, kind;  // "layers.0.attn.wq_a", "weight"
};

Name split(std::string_view tensor) {
  const size_t dot = tensor.rfind('.');
  if (dot == std::string_view::npos) return {};
  return {tensor.substr(0, dot), tensor.substr(dot + 1)};
}

// "layers.0.attn.wq_a" -> "attn.wq_a"; other names as they are.
std::string_view role_of(std::string_view module) {
  constexpr std::string_view kLayers = "layers.";
  if (!module.starts_with(kLayers)) return module;
  const size_t dot = module.find('.', kLayers.size());
  return dot == std::string_view::npos ? module : module.substr(dot + 1);
}

const ReleaseFormat* release_format(std::string_view module) {
  const auto found = std::ranges::find(kReleaseFormats, role_of(module), &ReleaseFormat::role);
  return found == std::end(kReleaseFormats) ? nullptr : &*found;
}

std::string_view format_in_words(const Tensor& weight, bool has_weight_scale) {
  if (weight.dtype == Dtype::kU8 && has_weight_scale) return "NVFP4";
  if (weight.dtype == Dtype::kF8E4M3 && has_weight_scale) return "FP8 with one scale";
  return dtype_name(weight.dtype);
}

void add_for_all(std::vector<Breach>& breaches, const std::string& rule) {
  for (const Engine engine : kAllEngines) breaches.push_back({engine, rule, kRemedy});
}

void check_beside_experts(std::span<const Tensor> tensors, std::vector<Breach>& breaches) {
  std::set<std::string_view> scaled;
  for (const Tensor& tensor : tensors) {
    const Name name = split(tensor.name);
    if (name.kind == "weight_scale" && release_format(name.module) != nullptr) scaled.insert(name.module);
  }
  std::set<std::string> found;
  size_t modules = 0;
  for (const Tensor& tensor : tensors) {
    const Name name = split(tensor.name);
    const ReleaseFormat* release = name.kind == "weight" ? release_format(name.module) : nullptr;
    const bool is_scaled = scaled.contains(name.module);
    if (release == nullptr || (tensor.dtype == release->dtype && !is_scaled)) continue;
    found.insert(fmt::format("{} ({})", release->role, format_in_words(tensor, is_scaled)));
    ++modules;
  }
  if (modules == 0) return;
  add_for_all(breaches, fmt::format("all but the routed experts must be stored as in the release; found {} "
                                    "other module{}: {}",
                                    modules, modules == 1 ? "" : "s", fmt::join(found, ", ")));
}

void check_experts(const std::map<uint64_t, ExpertsFormat>& experts, ExpertsFormat format, const char* rule,
                   std::vector<Breach>& breaches) {
  const auto is_it = [&](const auto& layer) { return layer.second == format; };
  const auto first = std::ranges::find_if(experts, is_it);
  if (first == experts.end()) return;
  const auto more = std::ranges::count_if(experts, is_it) - 1;
  add_for_all(breaches,
              fmt::format("{}: layers.{}.ffn.experts{}", rule, first->first,
                          more > 0 ? fmt::format(" and {} more layer{}", more, more == 1 ? "" : "s") : ""));
}

}  // namespace

std::map<uint64_t, ExpertsFormat> experts_formats(std::span<const Tensor> tensors) {
  struct Seen {
    bool nvfp4 = false, input_scale = false, release = false, other = false;
  };
  std::map<uint64_t, Seen> layers;
  for (const Tensor& tensor : tensors) {
    const Name name = split(tensor.name);
    const auto expert = parse_expert_name(name.module);
    if (!expert) continue;
    Seen& seen = layers[expert->layer];
    seen.input_scale |= name.kind == "input_scale";
    seen.nvfp4 |= name.kind == "weight_scale_2" || (name.kind == "weight" && tensor.dtype == Dtype::kU8);
    if (name.kind != "weight") continue;
    const bool is_release = tensor.dtype == Dtype::kI8 || tensor.dtype == Dtype::kF8E4M3;
    (is_release ? seen.release : seen.other) = true;
  }
  std::map<uint64_t, ExpertsFormat> formats;
  for (const auto& [layer, seen] : layers) {
    if (seen.nvfp4)
      formats[layer] = seen.input_scale ? ExpertsFormat::kNvfp4 : ExpertsFormat::kWeightOnly;
    else if (seen.other || (seen.release && seen.input_scale))
      formats[layer] = ExpertsFormat::kOther;
    else
      formats[layer] = seen.release ? ExpertsFormat::kRelease : ExpertsFormat::kNvfp4;
  }
  return formats;
}

std::vector<Breach> check_formats(std::span<const Tensor> tensors,
                                  const std::map<uint64_t, ExpertsFormat>& experts) {
  std::vector<Breach> breaches;
  check_beside_experts(tensors, breaches);
  check_experts(experts, ExpertsFormat::kWeightOnly, "NVFP4 experts must have an input_scale; none is there",
                breaches);
  check_experts(experts, ExpertsFormat::kOther, "routed experts must be NVFP4, MXFP4 or FP8 in blocks",
                breaches);
  return breaches;
}

}  // namespace nibblecast
