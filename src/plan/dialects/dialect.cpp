#include "plan/dialects/dialect.h"

#include <algorithm>
#include <cassert>
#include <optional>
#include <utility>
#include <variant>

#include "checkpoint/manifest.h"
#include "plan/dialects/compressed_tensors.h"
#include "plan/dialects/modelopt.h"

namespace nibblecast {
namespace {

Documents modelopt_v4(const DocumentsInput& input) {
  const std::vector<ManifestModule> modules = manifest_modules(input.modules);
  const Manifest manifest{.modules = modules,
                          .fp8_kv_cache = input.kv_cache == KvCache::kFp8Cast,
                          .producer_version = input.version};
  Documents documents{.config = output_config(input.source.config(), manifest),
                      .hf_quant_config = output_hf_quant_config(manifest)};
  if (std::optional<std::string> sentence = check_kv_cache(input.kv_cache))
    documents.warnings.push_back(std::move(*sentence));
  return documents;
}

Documents modelopt(const DocumentsInput& input) {
  ModelOptDocuments made =
      modelopt_documents(input.source, input.model.table, input.modules, input.kv_cache, input.version);
  return {.config = std::move(made.config), .hf_quant_config = std::move(made.hf_quant_config)};
}

Documents compressed_tensors(const DocumentsInput& input) {
  return {.config = compressed_tensors_config(input.source, input.model.table, input.modules, input.kv_cache),
          .hf_quant_config = nullptr};
}

constexpr LinearNames kModelOptNames;
constexpr LinearNames kCompressedTensorsNames = {.weight = ".weight_packed",
                                                 .scale_2 = ".weight_global_scale",
                                                 .input_scale = ".input_global_scale",
                                                 .reciprocal_scales = true,
                                                 .scalars_have_axis = true};

// format, names, whether it keeps what is quantized, documents
constexpr Dialect kDialects[] = {
    {OutputFormat::kModelOptV4, kModelOptNames, true, modelopt_v4},
    {OutputFormat::kModelOpt, kModelOptNames, false, modelopt},
    {OutputFormat::kCompressedTensors, kCompressedTensorsNames, false, compressed_tensors},
};

}  // namespace

const Dialect& dialect_of(OutputFormat format) {
  const auto found = std::ranges::find(kDialects, format, &Dialect::format);
  assert(found != std::end(kDialects));
  return *found;
}

std::vector<OutputFormat> formats_of(const Model& model) {
  if (std::holds_alternative<DeepseekV4Config>(model.spec)) return {OutputFormat::kModelOptV4};
  const auto is_stacked = [](const LayerTable& layer) {
    return std::ranges::any_of(layer.modules, [](const WeightModule& module) { return module.stack != 0; });
  };
  // compressed-tensors has no experts in one tensor.
  if (std::ranges::any_of(model.table.layers, is_stacked)) return {OutputFormat::kModelOpt};
  return {OutputFormat::kModelOpt, OutputFormat::kCompressedTensors};
}

}  // namespace nibblecast
