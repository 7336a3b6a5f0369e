#include "pipeline/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <string_view>

#include "base/error.h"
#include "base/shell.h"
#include "base/size_text.h"
#include "checkpoint/parameters.h"
#include "checkpoint/tensor_role.h"
#include "pipeline/model_card.h"
#include "pipeline/published.h"
#include "plan/engines.h"

namespace nibblecast {
namespace {

constexpr const char* kFormat = "nibblecast.report/2";  // the number of all --json objects
constexpr size_t kMostListed = 20;                      // tensors of a list

uint64_t count_of(const Json& object, const char* key) {
  const Json value = at_or_null(object, key);
  return value.is_null() ? 0 : value.get_ref<const Json::number_unsigned_t&>();
}

double share(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

uint64_t bytes_of(const std::vector<Tensor>& tensors) {
  uint64_t bytes = 0;
  for (const Tensor& tensor : tensors) bytes += tensor.size_bytes;
  return bytes;
}

// ---- sizes

struct KindSize {
  uint64_t source_bytes = 0, bytes = 0;
  std::set<std::string_view> source_dtypes = {}, dtypes = {};
};

Json sizes_document(const ReportInput& input) {
  std::map<std::string_view, KindSize> kinds;
  for (const Tensor& tensor : input.source) {
    KindSize& kind = kinds[tensor_role(tensor.name)];
    kind.source_bytes += tensor.size_bytes;
    kind.source_dtypes.insert(dtype_name(tensor.dtype));
  }
  for (const Tensor& tensor : input.output) {
    KindSize& kind = kinds[tensor_role(tensor.name)];
    kind.bytes += tensor.size_bytes;
    kind.dtypes.insert(dtype_name(tensor.dtype));
  }
  std::vector<std::pair<std::string_view, KindSize>> sorted(kinds.begin(), kinds.end());
  std::ranges::stable_sort(sorted, std::greater{}, [](const auto& kind) { return kind.second.bytes; });
  Json sizes = Json::array();
  for (const auto& [name, kind] : sorted) {
    sizes.push_back({{"kind", name},
                     {"source_bytes", input.source.empty() ? Json() : Json(kind.source_bytes)},
                     {"bytes", kind.bytes},
                     {"source_dtypes", kind.source_dtypes},
                     {"dtypes", kind.dtypes}});
  }
  return sizes;
}

// ---- weights

// The largest first, of an object of numbers.
Json largest_of(const Json& object, const char* key) {
  std::vector<std::pair<double, std::string>> all;
  for (const auto& [name, value] : object.items()) all.emplace_back(-value.get<double>(), name);
  std::ranges::sort(all);
  Json largest = Json::array();
  for (size_t index = 0; index < std::min(kMostListed, all.size()); ++index)
    largest.push_back({{"tensor", all[index].second}, {key, object.at(all[index].second)}});
  return largest;
}

struct LayerErrors {
  uint64_t weights = 0;
  double largest = 0, sum = 0;
};

// Of weights that were quantized, not cast: their relative errors, by layer and kind.
Json requantized_document(const Json& errors) {
  if (!errors.is_object() || errors.empty()) return {};
  std::map<std::pair<uint64_t, std::string_view>, LayerErrors> by_layer;
  double largest = 0;
  for (const auto& [name, value] : errors.items()) {
    const double error = value.get<double>();
    largest = std::max(largest, error);
    const auto layer = tensor_layer(name);
    if (!layer) continue;
    LayerErrors& found = by_layer[{*layer, tensor_role(name)}];
    ++found.weights, found.sum += error, found.largest = std::max(found.largest, error);
  }
  Json layers = Json::array();
  for (const auto& [key, found] : by_layer) {
    layers.push_back({{"layer", key.first},
                      {"kind", key.second},
                      {"weights", found.weights},
                      {"mean", found.sum / static_cast<double>(found.weights)},
                      {"largest", found.largest}});
  }
  return {{"weights", errors.size()},
          {"largest", largest},
          {"layers", std::move(layers)},
          {"worst", largest_of(errors, "relative_error")}};
}

Json blocks_document(const Json& record) {
  const Json blocks = at_or_null(record, "blocks");
  const Json outside = record.value("outside_window", Json::object());
  const uint64_t total = count_of(blocks, "total");
  return {{"total", total},
          {"lossless", count_of(blocks, "lossless")},
          {"zero", count_of(blocks, "zero")},
          {"outside_window", count_of(blocks, "outside_window")},
          {"lossless_share", total == 0 ? Json() : Json(share(count_of(blocks, "lossless"), total))},
          {"tensors_outside_window", outside.size()},
          {"most_outside_window", largest_of(outside, "blocks")}};
}

Json powers_document(const std::map<int, uint64_t>& powers) {
  Json document = Json::array();
  for (const auto& [exponent, blocks] : powers)
    document.push_back({{"exponent", exponent}, {"blocks", blocks}});
  return document;
}

// Null where no weight is NVFP4.
Json block_scales_document(const ReportInput& input) {
  uint64_t blocks = 0, read = 0;
  Json kinds = Json::array();
  for (const auto& [name, kind] : input.block_scales) {
    blocks += kind.blocks, read += kind.read;
    if (kind.read == 0) continue;
    kinds.push_back({{"kind", name},
                     {"blocks", kind.blocks},
                     {"read", kind.read},
                     {"zero", kind.zero},
                     {"stored", powers_document(kind.stored)},
                     {"exponents", powers_document(kind.exponents)}});
  }
  if (kinds.empty()) return {};
  return {{"blocks", blocks}, {"read", read}, {"kinds", std::move(kinds)}};
}

// ---- activations

const LayerAmax* measured_layer(const ReportInput& input, uint64_t layer) {
  return input.amax ? find_layer(input.amax->layers, layer) : nullptr;
}

// Tokens of every expert by layer, and those that saw none. Null where nothing is known of experts.
Json experts_document(const ReportInput& input) {
  Json layers = Json::array(), least;
  uint64_t starved = 0, experts = 0;
  for (const Json& entry : input.record.value("layers", Json::array())) {
    const uint64_t layer = count_of(entry, "layer");
    const Json without = entry.value("experts_without_tokens", Json::array());
    const LayerAmax* const measured = measured_layer(input, layer);
    const std::vector<int64_t> tokens = measured ? measured->tokens : std::vector<int64_t>();
    if (tokens.empty() && without.empty()) continue;
    starved += without.size(), experts += tokens.size();
    for (size_t expert = 0; expert < tokens.size(); ++expert) {
      if (least.is_null() || tokens[expert] < least["tokens"].get<int64_t>())
        least = {{"tokens", tokens[expert]}, {"layer", layer}, {"expert", expert}};
    }
    layers.push_back({{"layer", layer}, {"tokens", tokens}, {"experts_without_tokens", without}});
  }
  if (layers.empty()) return {};
  return {{"layers", std::move(layers)},
          {"experts", experts},
          {"without_tokens", starved},
          {"least_tokens", std::move(least)}};
}

Json activation_layers_document(const ReportInput& input) {
  std::map<uint64_t, std::map<std::string, Json>> layers;
  for (const Json& entry : input.record.value("layers", Json::array())) {
    const uint64_t layer = count_of(entry, "layer");
    for (const char* const key : {"amax", "bound"}) {
      const Json values = entry.value(key, Json::object());
      for (const auto& [tap, value] : values.items()) layers[layer][tap][key] = value;
    }
  }
  for (const auto& [place, scale] : input.input_scales)
    layers[place.first][place.second]["input_scale"] = scale;
  Json document = Json::array();
  for (const auto& [layer, taps] : layers) document.push_back({{"layer", layer}, {"taps", taps}});
  return document;
}

// ---- words

std::string lossless_text(const Json& blocks) {
  const uint64_t total = blocks["total"], outside = blocks["outside_window"];
  if (total == 0) return "";
  if (outside == 0) return fmt::format("All {} blocks have exactly the source's values", grouped(total));
  return fmt::format("{} of {} blocks have exactly the source's values, {} were requantized",
                     grouped(blocks["lossless"].get<uint64_t>()), grouped(total), grouped(outside));
}

std::string requantized_text(const Json& requantized) {
  if (requantized.is_null()) return "";
  const uint64_t weights = requantized["weights"];
  return fmt::format("{} {} quantized with a relative error of at most {:.3g}", grouped(weights),
                     weights == 1 ? "weight was" : "weights were", requantized["largest"].get<double>());
}

// Of weights that were not FP8 before.
std::string fp8_text(const ReportInput& input) {
  std::set<std::string_view> plain;
  for (const Tensor& tensor : input.source)
    if (tensor.dtype != Dtype::kF8E4M3) plain.insert(tensor.name);
  const auto made = static_cast<uint64_t>(std::ranges::count_if(input.output, [&](const Tensor& tensor) {
    return tensor.dtype == Dtype::kF8E4M3 && tensor.name.ends_with(".weight") && plain.contains(tensor.name);
  }));
  if (made == 0) return "";
  return fmt::format("{} {} quantized to FP8", grouped(made), made == 1 ? "weight was" : "weights were");
}

// One sentence, and whether nothing is to be said against the output.
Json verdict_document(const ReportInput& input, const Json& blocks, const Json& requantized,
                      const Json& experts) {
  std::vector<std::string> parts;
  for (std::string text : {lossless_text(blocks), requantized_text(requantized), fp8_text(input)})
    if (!text.empty()) parts.push_back(std::move(text));
  if (parts.empty() && input.record.at("command") != kEvaluatedOnly)
    parts.emplace_back("No block was cast, and no weight was quantized");
  if (std::string text = loss_text(input.evaluation); !text.empty()) parts.push_back(std::move(text));
  if (parts.empty()) parts.emplace_back("Nothing was measured");
  const uint64_t starved = experts.is_null() ? 0 : experts["without_tokens"].get<uint64_t>();
  if (!experts.is_null()) {
    parts.push_back(starved == 0 ? "every expert saw tokens"
                                 : fmt::format("{} {} no token", grouped(starved),
                                               starved == 1 ? "expert saw" : "experts saw"));
  }
  const bool good = starved == 0 && blocks["outside_window"].get<uint64_t>() == 0;
  return {{"good", good}, {"text", fmt::format("{}.", fmt::join(parts, "; "))}};
}

// Those whose loaders' rules the run has held to.
std::vector<Engine> engines_of(const Json& record) {
  std::set<std::string> names;
  for (const Json& name : record.value("options", Json::object()).value("engines", Json::array()))
    names.insert(name.get<std::string>());
  std::vector<Engine> engines;
  for (const Engine engine : kAllEngines) {
    if (names.contains(std::string(engine_name(engine)))) engines.push_back(engine);
  }
  return engines;
}

// Of a checkpoint of others, and in old records, it is not known.
OutputFormat format_of(const Json& record) {
  const Json name = at_or_null(at_or_null(record, "options"), "format");
  return name.is_string() ? parse_output_format(name.get<std::string>()).value_or(OutputFormat::kAuto)
                          : OutputFormat::kAuto;
}

Json commands_document(const ReportInput& input) {
  const std::string output = shell_word(input.destination);
  const std::string source = shell_word(input.record.at("source").value("name", "SRC"));
  Json serve = Json::array();
  const OutputFormat format = format_of(input.record);
  for (const Engine engine : engines_of(input.record)) serve.push_back(serve_command(engine, format, output));
  const bool is_ours = input.record.at("command") != kEvaluatedOnly;
  const auto ours = [&](std::string command) { return is_ours ? Json(std::move(command)) : Json(); };
  return {{"reproduce", at_or_null(input.record, "command_line")},
          {"verify", ours(fmt::format("nibblecast verify {} {}", source, output))},
          {"checksums", ours(fmt::format("nibblecast verify --checksums {}", output))},
          {"serve", std::move(serve)}};
}

// The sums of the stages' times, and what is in none of their parts. Null in records that have no stages.
Json times_document(const Json& stages) {
  if (stages.empty()) return {};
  Json times = {{"other", 0.0}};
  for (const char* const part :
       {"seconds", "read_wait", "forward", "make", "write_wait", "save", "bus", "device"}) {
    double sum = 0;
    for (const Json& stage : stages) sum += stage.at(part).get<double>();
    times[part] = sum;
  }
  double known = 0;
  for (const char* const part : {"read_wait", "forward", "make", "write_wait", "save"})
    known += times[part].get<double>();
  times["other"] = std::max(0.0, times["seconds"].get<double>() - known);
  return times;
}

Json run_document_of(const Json& record) {
  const Json bytes = at_or_null(record, "bytes");
  const Json stages = record.value("stages", Json::array());
  return {{"seconds", record.value("seconds", 0.0)},
          {"finished", record.value("finished", "")},
          {"bytes", {{"read", count_of(bytes, "read")}, {"written", count_of(bytes, "written")}}},
          {"times", times_document(stages)},
          {"stages", stages},
          {"attempts", record.value("attempts", Json::array())}};
}

Json options_document(const Json& record) {
  Json options = record.value("options", Json::object());
  options.erase("recipe_text");
  return options;
}

Json figures_document(const ReportInput& input) {
  const uint64_t bytes = bytes_of(input.output), source_bytes = bytes_of(input.source);
  const uint64_t parameters = parameter_count(input.source.empty() ? input.output : input.source);
  Json releases = Json::array();
  for (const Engine engine : engines_of(input.record)) releases.push_back(engine_release(engine));
  const bool known = !input.source.empty();
  return {{"parameters", parameters},
          {"bytes", bytes},
          {"source_bytes", known ? Json(source_bytes) : Json()},
          {"bits_per_weight", 8 * share(bytes, parameters)},
          {"source_bits_per_weight", known ? Json(8 * share(source_bytes, parameters)) : Json()},
          {"perplexity", at_or_null(input.record, "perplexity")},
          {"engines", std::move(releases)}};
}

Json document_of(const ReportInput& input) {
  const Json& record = input.record;
  Json blocks = blocks_document(record);
  Json requantized = requantized_document(at_or_null(record, "relative_error")),
       experts = experts_document(input);
  Json verdict = verdict_document(input, blocks, requantized, experts);
  const Json& source = record.at("source");
  return {{"format", kFormat},
          {"version", record.value("version", "")},
          {"made_by", record.at("command")},
          {"destination", input.destination},
          {"source", {{"name", source.at("name")}, {"hub", at_or_null(source, "hub")}}},
          {"options", options_document(record)},
          {"activations", record.value("activations", Json::object())},
          {"verdict", std::move(verdict)},
          {"figures", figures_document(input)},
          {"sizes", sizes_document(input)},
          {"blocks", std::move(blocks)},
          {"block_scales", block_scales_document(input)},
          {"requantized", std::move(requantized)},
          {"experts", std::move(experts)},
          {"layers", activation_layers_document(input)},
          {"run", run_document_of(record)},
          {"commands", commands_document(input)},
          {"evaluation", published_evaluation(input.evaluation)}};
}

}  // namespace

Json published_evaluation(Json evaluation) {
  if (!evaluation.is_object()) return {};
  for (Json& model : evaluation.at("models"))
    model["path"] = folder_name(model.value("path", std::string("?")));
  for (const char* const of_this_process : {"format", "command", "ok", "exit_code", "errors", "warnings"})
    evaluation.erase(of_this_process);
  return evaluation;
}

std::string loss_text(const Json& evaluation) {
  const Json models = at_or_null(evaluation, "models");
  if (!models.is_array() || models.size() != 2) return "";
  const Json& found = models[1].at("against_source");
  const auto number = [](const Json& value) { return value.is_null() ? NAN : value.get<double>(); };
  return fmt::format(
      "KL divergence {:.3g} nats a token, the source's top token in {:.2f} %, perplexity {:.4g} "
      "(the source: {:.4g})",
      number(found.at("kl_mean")), 100 * number(found.at("top1_agreement")),
      number(models[1].at("perplexity")), number(models[0].at("perplexity")));
}

Json report_document(const ReportInput& input) {
  try {
    return document_of(input);
  } catch (const Json::exception& error) {
    throw Error(ErrorKind::kBadInput, {.file = input.destination + "/nibblecast.json"},
                std::string("does not hold what the record of a run holds: ") + error.what(),
                {.hint = "was it edited? `nibblecast verify SRC DST` tells what else is wrong"});
  }
}

}  // namespace nibblecast
