#include "plan/dialects/compressed_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "checkpoint/manifest.h"
#include "plan/dialects/scheme_names.h"

namespace nibblecast {
namespace {

constexpr std::string_view kVersion = "0.19.0";  // of compressed-tensors, whose keys these are

struct Scheme {
  std::string_view name;
  std::string_view format;
  Json weights, inputs;  // null inputs: they are not quantized
};

// Numbers of FP4 in blocks of 16, or of FP8 under one scale.
Json numbers(bool is_fp4, Json dynamic, const char* observer) {
  return {{"actorder", nullptr},
          {"block_structure", nullptr},
          {"dynamic", std::move(dynamic)},
          {"group_size", is_fp4 ? Json(16) : Json()},
          {"num_bits", is_fp4 ? 4 : 8},
          {"observer", observer},
          {"observer_kwargs", Json::object()},
          {"scale_dtype", is_fp4 ? Json("torch.float8_e4m3fn") : Json()},
          {"strategy", is_fp4 ? "tensor_group" : "tensor"},
          {"symmetric", true},
          {"type", "float"},
          {"zp_dtype", nullptr}};
}

const std::vector<Scheme>& schemes() {
  static const Json kFp4 = numbers(true, false, "memoryless_minmax");
  static const std::vector<Scheme> kSchemes = {
      {"NVFP4", "nvfp4-pack-quantized", kFp4, numbers(true, "local", "static_minmax")},
      {"NVFP4A16", "nvfp4-pack-quantized", kFp4, nullptr},
      {"FP8", "float-quantized", numbers(false, false, "memoryless_minmax"),
       numbers(false, false, "static_minmax")}};
  return kSchemes;
}

Json group_of(const Scheme& scheme, Json targets) {
  return {{"format", scheme.format},
          {"input_activations", scheme.inputs},
          {"output_activations", nullptr},
          {"targets", std::move(targets)},
          {"weights", scheme.weights}};
}

// Globals stand after the layers.
std::vector<const ResolvedModule*> in_order(std::span<const ResolvedModule> modules) {
  std::vector<const ResolvedModule*> ordered;
  for (const bool globals : {false, true}) {
    for (const ResolvedModule& each : modules)
      if ((each.module->id.layer < 0) == globals) ordered.push_back(&each);
  }
  return ordered;
}

std::string pattern_of(std::string_view prefix) {
  std::string pattern = "re:";
  for (const char c : prefix) {
    if (c == '.') pattern += '\\';
    pattern += c;
  }
  return pattern + ".*";
}

// Draft layers and other modalities that the source has.
void ignore_passed_through(const Checkpoint& source, const ModelTable& table, Json& ignored) {
  constexpr std::string_view kWeight = ".weight";
  for (const std::string& prefix : table.passed_through) {
    if (!prefix.ends_with('.')) continue;
    bool is_there = false;
    for (const Tensor& tensor : source.tensors()) {
      if (!tensor.name.starts_with(prefix)) continue;
      if (!std::exchange(is_there, true)) ignored.push_back(pattern_of(prefix));
      if (tensor.shape.size() == 2 && tensor.name.ends_with(kWeight))
        ignored.push_back(tensor.name.substr(0, tensor.name.size() - kWeight.size()));
    }
  }
}

Json ignored_modules(const Checkpoint& source, const ModelTable& table,
                     const std::vector<const ResolvedModule*>& modules) {
  Json ignored = Json::array(), globals = Json::array();
  for (const ResolvedModule* each : modules) {
    if (each->module->kind == ModuleKind::kEmbedding || !compressed_tensors_scheme(*each).empty()) continue;
    (each->module->id.layer < 0 ? globals : ignored).push_back(each->module->name);
  }
  ignore_passed_through(source, table, ignored);
  for (Json& name : globals) ignored.push_back(std::move(name));
  if (table.tied_head) ignored.push_back("lm_head");
  return ignored;
}

// The schemes that there are, with the names of their modules.
std::vector<std::pair<const Scheme*, Json>> used_schemes(const std::vector<const ResolvedModule*>& modules) {
  std::vector<std::pair<const Scheme*, Json>> used;
  for (const Scheme& scheme : schemes()) {
    Json names = Json::array();
    for (const ResolvedModule* each : modules)
      if (compressed_tensors_scheme(*each) == scheme.name) names.push_back(each->module->name);
    if (!names.empty()) used.emplace_back(&scheme, std::move(names));
  }
  return used;
}

Json cache_scheme(KvCache kv_cache, bool is_quantized) {
  if (kv_cache == KvCache::kNone) return nullptr;
  if (kv_cache == KvCache::kFp8Cast && is_quantized) return numbers(false, false, "static_minmax");
  throw Error(ErrorKind::kUnsupported, {},
              fmt::format("--kv-cache {}: {}", kv_cache_name(kv_cache),
                          is_quantized ? "compressed-tensors output has no scales of the cache"
                                       : "engines read it only where a module is quantized"),
              {.hint = is_quantized ? "use --kv-cache fp8_cast, or none, or --format modelopt"
                                    : "use --kv-cache none"});
}

}  // namespace

std::string_view compressed_tensors_scheme(const ResolvedModule& module) {
  static constexpr SchemeNames kNames = {
      .form = "compressed-tensors output", .nvfp4 = "NVFP4", .nvfp4_weights = "NVFP4A16", .fp8 = "FP8"};
  return scheme_of(module, kNames).value_or(std::string_view());
}

Json compressed_tensors_config(const Checkpoint& source, const ModelTable& table,
                               std::span<const ResolvedModule> modules, KvCache kv_cache) {
  Json config = without_quantization(source.config());
  const std::vector<const ResolvedModule*> ordered = in_order(modules);
  const auto used = used_schemes(ordered);
  Json cache = cache_scheme(kv_cache, !used.empty());
  if (used.empty()) return config;
  Json groups = Json::object();
  for (const auto& [scheme, names] : used) {
    Json targets = used.size() == 1 ? Json::array({"Linear"}) : names;
    groups["group_" + std::to_string(groups.size())] = group_of(*scheme, std::move(targets));
  }
  const bool one_format = std::ranges::all_of(
      used, [&](const auto& each) { return each.first->format == used.front().first->format; });
  config["quantization_config"] = {{"config_groups", std::move(groups)},
                                   {"format", one_format ? used.front().first->format : "mixed-precision"},
                                   {"global_compression_ratio", nullptr},
                                   {"ignore", ignored_modules(source, table, ordered)},
                                   {"kv_cache_scheme", std::move(cache)},
                                   {"quant_method", "compressed-tensors"},
                                   {"quantization_status", "compressed"},
                                   {"sparsity_config", Json::object()},
                                   {"transform_config", Json::object()},
                                   {"version", kVersion}};
  return config;
}

}  // namespace nibblecast
