#include "plan/dialects/modelopt.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "base/error.h"
#include "checkpoint/manifest.h"
#include "plan/dialects/scheme_names.h"

namespace nibblecast {
namespace {

constexpr int kGroupSize = 16;
constexpr std::string_view kMixed = "MIXED_PRECISION";

// Quantized modules by their names on disk.
using Algorithms = std::map<std::string, std::string_view>;

Algorithms algorithms_of(std::span<const ResolvedModule> modules) {
  Algorithms algorithms;
  for (const ResolvedModule& each : modules)
    if (const auto algorithm = modelopt_algorithm(each)) algorithms.emplace(each.module->name, *algorithm);
  return algorithms;
}

bool has_group_size(std::string_view algorithm) { return algorithm != "FP8"; }

// The one algorithm of all, or that of mixtures.
std::string_view common_algorithm(const Algorithms& algorithms) {
  const std::string_view first = algorithms.begin()->second;
  const bool same = std::ranges::all_of(algorithms, [&](const auto& each) { return each.second == first; });
  return same ? first : kMixed;
}

Json layer_entry(std::string_view algorithm) {
  Json entry = {{"quant_algo", algorithm}};
  if (has_group_size(algorithm)) entry["group_size"] = kGroupSize;
  return entry;
}

Json numbers(std::string_view algorithm) {
  Json numbers = {{"dynamic", false}, {"num_bits", algorithm == "FP8" ? 8 : 4}, {"type", "float"}};
  if (has_group_size(algorithm)) numbers["group_size"] = kGroupSize;
  return numbers;
}

Json config_group(std::string_view algorithm, Json targets) {
  Json group = {{"targets", std::move(targets)}, {"weights", numbers(algorithm)}};
  if (algorithm != "W4A16_NVFP4") group["input_activations"] = numbers(algorithm);
  return group;
}

// One for all linears, or one an algorithm, in the order of their first modules, each with its modules.
Json config_groups(const Algorithms& algorithms) {
  const std::string_view common = common_algorithm(algorithms);
  if (common != kMixed) return {{"group_0", config_group(common, Json::array({"Linear"}))}};
  std::vector<std::pair<std::string_view, Json>> groups;
  for (const auto& [module, algorithm] : algorithms) {
    auto group = std::ranges::find(groups, algorithm, [](const auto& each) { return each.first; });
    if (group == groups.end()) group = groups.insert(groups.end(), {algorithm, Json::array()});
    group->second.push_back(module);
  }
  Json named = Json::object();
  for (auto& [algorithm, targets] : groups)
    named["group_" + std::to_string(named.size())] = config_group(algorithm, std::move(targets));
  return named;
}

Json quantized_layers(const Algorithms& algorithms) {
  Json layers = Json::object();
  for (const auto& [module, algorithm] : algorithms) layers[module] = layer_entry(algorithm);
  return layers;
}

// Draft layers that the source has.
void exclude_drafts(const Checkpoint& source, const ModelTable& table, std::set<std::string>& excluded) {
  for (const std::string& prefix : table.passed_through) {
    const auto begins = [&](const Tensor& tensor) { return tensor.name.starts_with(prefix); };
    if (prefix.ends_with('.') && std::ranges::any_of(source.tensors(), begins)) excluded.insert(prefix + "*");
  }
}

// Convolutions are modules to ModelOpt.
void exclude_filters(const LayerTable& layer, std::set<std::string>& excluded) {
  for (const PlainTensor& tensor : layer.plain)
    if (tensor.kind == PlainKind::kFilter) excluded.insert(tensor.name.substr(0, tensor.name.rfind('.')));
}

Json excluded_modules(const Checkpoint& source, const ModelTable& table,
                      std::span<const ResolvedModule> modules) {
  std::set<std::string> excluded;
  for (const ResolvedModule& each : modules) {
    if (modelopt_algorithm(each)) continue;
    const bool is_expert = each.module->is_routed_expert();
    excluded.insert(is_expert ? experts_name(*each.module) + "*" : each.module->name);
  }
  for (const LayerTable& layer : table.layers) exclude_filters(layer, excluded);
  if (table.tied_head) excluded.insert("lm_head");
  exclude_drafts(source, table, excluded);
  return excluded;
}

void check_kv_cache(KvCache kv_cache, bool is_quantized) {
  if (kv_cache == KvCache::kNvfp4Cast) {
    throw Error(ErrorKind::kUnsupported, {}, "--kv-cache nvfp4_cast: only FP8 caches can be declared",
                {.hint = "use --kv-cache none, fp8_cast or fp8"});
  }
  if (kv_cache == KvCache::kNone || is_quantized) return;
  throw Error(
      ErrorKind::kUnsupported, {},
      fmt::format("--kv-cache {}: engines read it only where a module is quantized", kv_cache_name(kv_cache)),
      {.hint = "use --kv-cache none"});
}

// What both documents say the same, under the names of hf_quant_config.json.
Json quantization_of(const Algorithms& algorithms, Json excluded) {
  const std::string_view common = common_algorithm(algorithms);
  Json quantization = {{"quant_algo", common}, {"exclude_modules", std::move(excluded)}};
  if (common == kMixed)
    quantization["quantized_layers"] = quantized_layers(algorithms);
  else if (has_group_size(common))
    quantization["group_size"] = kGroupSize;
  return quantization;
}

// The same as config.json has it.
Json flat(Json quantization, const Algorithms& algorithms, bool fp8_kv_cache) {
  quantization["ignore"] = std::move(quantization["exclude_modules"]);
  quantization.erase("exclude_modules");
  quantization["config_groups"] = config_groups(algorithms);
  quantization["quant_method"] = "modelopt";
  if (fp8_kv_cache)
    quantization["kv_cache_scheme"] = {{"dynamic", false}, {"num_bits", 8}, {"type", "float"}};
  return quantization;
}

}  // namespace

std::optional<std::string_view> modelopt_algorithm(const ResolvedModule& module) {
  static constexpr SchemeNames kNames = {
      .form = "ModelOpt's form", .nvfp4 = "NVFP4", .nvfp4_weights = "W4A16_NVFP4", .fp8 = "FP8"};
  return scheme_of(module, kNames);
}

ModelOptDocuments modelopt_documents(const Checkpoint& source, const ModelTable& table,
                                     std::span<const ResolvedModule> modules, KvCache kv_cache,
                                     const std::string& producer_version) {
  ModelOptDocuments documents{.config = without_quantization(source.config()), .hf_quant_config = nullptr};
  const Algorithms algorithms = algorithms_of(modules);
  check_kv_cache(kv_cache, !algorithms.empty());
  if (algorithms.empty()) return documents;

  const bool fp8_kv_cache = kv_cache != KvCache::kNone;
  const Json producer = {{"name", "nibblecast"}, {"version", producer_version}};
  Json quantization = quantization_of(algorithms, excluded_modules(source, table, modules));
  Json config = flat(quantization, algorithms, fp8_kv_cache);
  config["producer"] = producer;
  documents.config["quantization_config"] = std::move(config);
  quantization["kv_cache_quant_algo"] = fp8_kv_cache ? Json("FP8") : Json();
  documents.hf_quant_config = {{"producer", producer}, {"quantization", std::move(quantization)}};
  return documents;
}

}  // namespace nibblecast
