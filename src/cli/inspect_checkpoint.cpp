#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "checkpoint/parameters.h"
#include "checkpoint/printable.h"
#include "checkpoint/quantization.h"
#include "checkpoint/tensor_role.h"
#include "cli/inspect_parts.h"
#include "cli/run_summary.h"
#include "cli/summary.h"
#include "cli/text.h"
#include "weights/container.h"

namespace nibblecast {
namespace {

constexpr size_t kMostItems = 6;     // of a list or object in quantization_config
constexpr uint64_t kMostListed = 8;  // expert formats: layers shown

struct Count {
  uint64_t tensors = 0, bytes = 0;
};

std::string_view part_of(std::string_view name) {
  for (const std::string_view suffix : {".weight_scale_2", ".weight_scale", ".weight_global_scale",
                                        ".input_global_scale", ".weight_shape", ".input_scale", ".scale"}) {
    if (name.ends_with(suffix)) return suffix.substr(1);
  }
  return "weight";
}

struct Overview {
  std::map<std::tuple<std::string, std::string, Dtype>, Count> kinds;  // role, part, dtype
  std::map<std::string, uint64_t> modules;                             // format -> modules with such a weight
  std::map<std::string, std::set<uint64_t>> expert_layers;  // format -> layers whose experts have it
  std::set<uint64_t> layers;
};

std::string format_name(const StoredFiles& stored, const std::string& module, const Tensor& weight) {
  if (const auto packed = stored.packed(module)) return packed->container;
  return std::string(dtype_name(weight.dtype));
}

Overview overview_of(const StoredFiles& stored) {
  Overview overview;
  for (const Tensor& tensor : stored.tensors()) {
    const std::string_view name = tensor.name;
    Count& count = overview.kinds[{std::string(tensor_role(name)), std::string(part_of(name)), tensor.dtype}];
    ++count.tensors;
    count.bytes += tensor.size_bytes;
    const std::optional<uint64_t> layer = tensor_layer(name);
    if (layer) overview.layers.insert(*layer);
    const std::string module(module_of_weight(name));
    if (module.empty()) continue;
    const std::string format = format_name(stored, module, tensor);
    ++overview.modules[format];
    if (layer && tensor_role(name) == "routed experts") overview.expert_layers[format].insert(*layer);
  }
  return overview;
}

// Lists and objects of many entries by their number only.
Json shortened(const Json& value) {
  Json result = value;
  for (auto& [key, item] : result.items()) {
    if (item.is_structured() && item.size() > kMostItems) item = fmt::format("{} entries", item.size());
  }
  return result;
}

std::string section_text(const QuantizationSection& section) {
  if (!section.value->is_object()) return summary_line("quantization", section.name + " is not an object");
  std::string text;
  const Json brief = shortened(*section.value);
  for (const auto& [key, value] : brief.items()) {
    const std::string shown = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    text += summary_line(text.empty() ? "quantization" : "",
                         fmt::format("{:<24} {}", printable(key), printable(shown)));
  }
  const bool is_nested = section.name.find('.') != std::string::npos;
  return is_nested ? text + summary_line("", "in " + printable(section.name)) : text;
}

std::string quantization_text(const Json& config) {
  std::string text;
  for (const QuantizationSection& section : quantization_sections(config)) text += section_text(section);
  return text.empty() ? summary_line("quantization", "config.json has no quantization_config") : text;
}

// What no command but this one reads.
std::string foreign_text(const StoredFiles& stored) {
  const auto foreign = find_foreign_format(stored.config(), stored.tensors());
  return foreign ? summary_line("not read", foreign->text()) : std::string();
}

std::string text_of(const std::string& path, const StoredFiles& stored, const Overview& overview) {
  std::string text = summary_line("path", path);
  text += summary_line("contents", fmt::format("{} tensors, {} bytes ({}) in {} files",
                                               grouped(stored.tensors().size()), grouped(stored.data_bytes()),
                                               size_text(stored.data_bytes()), stored.shards().size()));
  text += summary_line("", weights_text(parameter_count(stored.tensors()), stored.data_bytes()));
  if (!overview.layers.empty()) {
    text += summary_line("layers", list_text({overview.layers.begin(), overview.layers.end()}, kMostListed));
  }
  for (const auto& [format, layers] : overview.expert_layers) {
    text += summary_line("experts", fmt::format("{} in layers {}", format,
                                                list_text({layers.begin(), layers.end()}, kMostListed)));
  }
  std::string label = "weights";
  for (const auto& [format, modules] : overview.modules) {
    text +=
        summary_line(std::exchange(label, ""), fmt::format("{:<10} {:>9} modules", format, grouped(modules)));
  }
  label = "kinds";
  for (const auto& [kind, count] : overview.kinds) {
    const auto& [role, part, dtype] = kind;
    text += summary_line(std::exchange(label, ""),
                         fmt::format("{:<18} {:<15} {:<8} {:>9} tensors {:>19} bytes", role, part,
                                     dtype_name(dtype), grouped(count.tensors), grouped(count.bytes)));
  }
  for (const auto& [key, value] : stored.metadata()) {
    text += summary_line("metadata", fmt::format("{}: {}", printable(key), printable(value)));
  }
  text += foreign_text(stored);
  return stored.config().empty() ? text : text + quantization_text(stored.config());
}

}  // namespace

Shown show_checkpoint(const std::string& path, const StoredFiles& stored) {
  const Overview overview = overview_of(stored);
  Json kinds = Json::array(), experts = Json::object();
  for (const auto& [kind, count] : overview.kinds) {
    kinds.push_back({{"role", std::get<0>(kind)},
                     {"part", std::get<1>(kind)},
                     {"dtype", dtype_name(std::get<2>(kind))},
                     {"tensors", count.tensors},
                     {"bytes", count.bytes}});
  }
  for (const auto& [format, layers] : overview.expert_layers) experts[format] = layers;
  Json json = {{"path", path},
               {"tensors", stored.tensors().size()},
               {"bytes", stored.data_bytes()},
               {"parameters", parameter_count(stored.tensors())},
               {"files", stored.shards().size()},
               {"layers", overview.layers},
               {"expert_formats", std::move(experts)},
               {"modules_by_format", overview.modules},
               {"kinds", std::move(kinds)},
               {"metadata", stored.metadata()}};
  const auto foreign = find_foreign_format(stored.config(), stored.tensors());
  json["foreign_format"] = foreign ? Json(foreign->text()) : Json();
  if (stored.config().contains("quantization_config")) {
    json["quantization_config"] = stored.config()["quantization_config"];
  }
  return {text_of(path, stored, overview), std::move(json)};
}

}  // namespace nibblecast
