#include "pipeline/verify_documents.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "checkpoint/printable.h"
#include "pipeline/verify_checksums.h"

namespace nibblecast {
namespace {

constexpr const char* kIndexName = "model.safetensors.index.json";

// What engines load beside config and weights, by the names that transformers gives it.
constexpr const char* kLoadedFiles[] = {
    "tokenizer.json",      "tokenizer_config.json", "generation_config.json",
    "chat_template.jinja", "chat_template.json",    "special_tokens_map.json",
    "added_tokens.json",   "tokenizer.model",       "vocab.json",
    "merges.txt"};

std::string text_of(const Json& value) { return printable(value.dump()); }

// Adds a line for each value in which `found` is not `expected`.
class JsonComparison {
 public:
  JsonComparison(std::string file, ProblemList& problems) : file_(std::move(file)), problems_(problems) {}

  void compare(const Json& expected, const Json& found, const std::string& path) {
    if (!expected.is_object() || !found.is_object()) {
      if (expected != found)
        add(path, fmt::format("must be {}; found {}", text_of(expected), text_of(found)));
      return;
    }
    for (const auto& [key, value] : expected.items()) {
      const std::string below = path_of(path, key);
      if (found.contains(key))
        compare(value, found.at(key), below);
      else
        add(below, fmt::format("must be {}; found nothing", text_of(value)));
    }
    for (const auto& [key, value] : found.items()) {
      if (!expected.contains(key))
        add(path_of(path, key), fmt::format("must be absent; found {}", text_of(value)));
    }
  }

 private:
  static std::string path_of(const std::string& path, const std::string& key) {
    return path.empty() ? printable(key) : path + "." + printable(key);
  }
  void add(const std::string& path, const std::string& problem) {
    problems_.add(file_, fmt::format("{}: {} {}", file_, path, problem));
  }

  std::string file_;
  ProblemList& problems_;
};

// Every module with a tensor that only NVFP4 and FP8 modules have; routed experts as "layers.0.ffn.experts"
// where they are listed so.
std::set<std::string> quantized_modules(const OutputFolder& output, const Model& model, const Json& listed) {
  const ModuleIndex index(model.table);
  std::set<std::string> modules;
  constexpr std::string_view kSuffix = ".weight_scale";
  for (const Tensor& tensor : output.tensors) {
    if (!tensor.name.ends_with(kSuffix)) continue;
    const std::string module = tensor.name.substr(0, tensor.name.size() - kSuffix.size());
    const WeightModule* known = index.find(module);
    const bool together =
        known != nullptr && known->is_routed_expert() && listed.contains(experts_name(*known));
    modules.insert(together ? experts_name(*known) : module);
  }
  return modules;
}

void check_quantized_layers(const std::string& file, const Json& listed, const OutputFolder& output,
                            const Model* model, ProblemList& problems) {
  // What is no object is reported by the comparison with the plan.
  if (!listed.is_object() || !output.all_shards_read || model == nullptr) return;
  const std::set<std::string> modules = quantized_modules(output, *model, listed);
  for (const std::string& module : modules) {
    if (listed.contains(module)) continue;
    problems.add(file,
                 fmt::format("{}: quantized_layers lacks {}, whose tensors are quantized", file, module));
  }
  for (const auto& [module, unused] : listed.items()) {
    if (modules.contains(module)) continue;
    problems.add(file, fmt::format("{}: quantized_layers names {}, which has no quantized tensors", file,
                                   printable(module)));
  }
}

// What is not for the plan to say is expected as it was found.
void take_over(const Json& found, const char* key, Json& expected) {
  if (found.is_null())
    expected.erase(key);
  else
    expected[key] = found;
}

template <class T>
std::optional<T> choice(const Json& options, const char* key,
                        std::initializer_list<std::pair<const char*, T>> values, ProblemList& problems) {
  const Json found = at_or_null(options, key);
  for (const auto& [name, value] : values) {
    if (found == name) return value;
  }
  problems.add("nibblecast.json",
               fmt::format("nibblecast.json: options.{} is unknown; found {}", key, text_of(found)));
  return std::nullopt;
}

// Of an option that is null where the recipe's own value holds.
template <class T>
std::optional<T> named(const Json& options, const char* key, std::optional<T> (*parse)(std::string_view),
                       ProblemList& problems) {
  const Json found = at_or_null(options, key);
  if (found.is_null()) return std::nullopt;
  const std::optional<T> value = found.is_string() ? parse(found.get<std::string>()) : std::nullopt;
  if (!value) choice<bool>(options, key, {}, problems);
  return value;
}

// A list of names; the default stays where nothing is recorded.
void read_engines(const Json& recorded, std::set<Engine>& engines, ProblemList& problems) {
  if (recorded.is_null()) return;
  std::set<Engine> named;
  for (const Engine engine : kAllEngines) {
    if (recorded.is_array() && std::ranges::find(recorded, Json(engine_name(engine))) != recorded.end())
      named.insert(engine);
  }
  if (recorded.is_array() && named.size() == recorded.size())
    engines = std::move(named);
  else
    problems.add("nibblecast.json",
                 fmt::format("nibblecast.json: options.engines is unknown; found {}", text_of(recorded)));
}

// As it was written; where nothing is recorded of it, as the source has it.
void check_content(const std::string& name, const Json& checksum, const OutputFolder& output,
                   const Checkpoint& source, FileSystem& files, ProblemList& problems,
                   std::vector<std::string>& notes) {
  const std::string found = file_checksum(files, output.path / name);
  if (checksum.is_null()) {
    if (found != file_checksum(files, source.folder() / name))
      notes.push_back(printable(name) + ": is not the source's");
  } else if (checksum != found) {
    problems.add("files", printable(name) + ": was changed since it was written");
  }
}

}  // namespace

RecordedOptions recorded_options(const Json& run_document, ProblemList& problems) {
  RecordedOptions recorded;
  if (run_document.is_null()) return recorded;
  const Json options = at_or_null(run_document, "options");
  const Json command = at_or_null(run_document, "command");
  if (command == "dequantize" || command == "convert") {
    recorded.command = command.get<std::string>();
    const Json made = at_or_null(options, "made");
    recorded.made = made.is_string() ? made.get<std::string>() : made.dump();
    return recorded;
  }
  if (!command.is_null() && command != "quantize") {
    problems.add("nibblecast.json",
                 fmt::format("nibblecast.json: command is unknown; found {}", text_of(command)));
  }
  const Json input_scale = at_or_null(options, "input_scale");
  if (input_scale.is_string() && parse_input_scale(input_scale.get<std::string>(), recorded.options))
    recorded.input_scale = recorded.options.input_scale;
  else
    choice<bool>(options, "input_scale", {}, problems);
  recorded.negative_zero =
      choice<NegativeZero>(options, "negative_zero",
                           {{"keep", NegativeZero::kKeep}, {"modelopt", NegativeZero::kModelOpt}}, problems);
  recorded.options.w2_input =
      choice<W2Input>(
          options, "w2_input",
          {{"max", W2Input::kMax}, {"weighted", W2Input::kWeighted}, {"unweighted", W2Input::kUnweighted}},
          problems)
          .value_or(W2Input::kMax);
  recorded.options.compute_dtype =
      choice<ComputeDtype>(options, "compute_dtype",
                           {{"bfloat16", ComputeDtype::kBF16}, {"float32", ComputeDtype::kF32}}, problems)
          .value_or(ComputeDtype::kBF16);
  const Json recipe = at_or_null(options, "recipe");
  if (recipe.is_string())
    recorded.options.recipe = recipe.get<std::string>();
  else
    choice<bool>(options, "recipe", {}, problems);
  // Outputs of a file's recipe hold its text; the file may be gone or changed since.
  const Json recipe_text = at_or_null(options, "recipe_text");
  if (recipe_text.is_string()) recorded.options.recipe_text = recipe_text.get<std::string>();
  const Json format = at_or_null(options, "format");  // older versions had one for each family
  if (!format.is_null()) {
    const auto known = format.is_string() ? parse_output_format(format.get<std::string>()) : std::nullopt;
    if (known)
      recorded.options.format = *known;
    else
      choice<bool>(options, "format", {}, problems);
  }
  recorded.options.weight_method = named(options, "weight_method", parse_recipe_method, problems);
  recorded.options.kv_cache = named(options, "kv_cache", parse_kv_cache, problems);
  read_engines(at_or_null(options, "engines"), recorded.options.engines, problems);
  if (recorded.negative_zero) recorded.options.negative_zero = *recorded.negative_zero;
  return recorded;
}

void check_documents(const OutputFolder& output, const Plan& plan, ProblemList& problems,
                     std::vector<std::string>& notes) {
  // Where the plan gives a document's text, that is what is to be found.
  const auto planned = [](const std::string& text, const Json& document, const char* name) {
    return text.empty() ? document : parse_json(text, name);
  };
  // The producer says who made it, not what it is.
  Json config = planned(plan.config_text, plan.config, "config.json");
  Json hf_quant_config = plan.hf_quant_config;
  const Json producer = at_or_null(at_or_null(output.config, "quantization_config"), "producer");
  if (producer.is_object() && producer.contains("name")) {
    const auto word = [](const Json& value) {
      return value.is_string() ? printable(value.get_ref<const std::string&>()) : text_of(value);
    };
    notes.push_back(
        fmt::format("made by {} {}", word(producer["name"]), word(at_or_null(producer, "version"))));
  }
  if (at_or_null(config, "quantization_config").is_object())
    take_over(producer, "producer", config["quantization_config"]);
  if (!output.config.is_null()) {
    JsonComparison("config.json", problems).compare(config, output.config, "");
    check_quantized_layers("config.json",
                           at_or_null(at_or_null(output.config, "quantization_config"), "quantized_layers"),
                           output, plan.model.get(), problems);
  }
  if (output.has_hf_quant_config == plan.hf_quant_config.is_null()) {
    problems.add("files", fmt::format("hf_quant_config.json: {}",
                                      output.has_hf_quant_config
                                          ? "must not be there: the plan has none"
                                          : "is missing; was the run that made this folder interrupted?"));
  } else if (!output.hf_quant_config.is_null()) {
    take_over(at_or_null(output.hf_quant_config, "producer"), "producer", hf_quant_config);
    JsonComparison("hf_quant_config.json", problems).compare(hf_quant_config, output.hf_quant_config, "");
    check_quantized_layers("hf_quant_config.json",
                           at_or_null(at_or_null(output.hf_quant_config, "quantization"), "quantized_layers"),
                           output, plan.model.get(), problems);
  }
  if (output.index_metadata.is_object()) {
    Json metadata =
        at_or_null(planned(plan.index_text, plan.index, "model.safetensors.index.json"), "metadata");
    // Held against the tensors themselves when the index was read.
    take_over(at_or_null(output.index_metadata, "total_size"), "total_size", metadata);
    JsonComparison("model.safetensors.index.json", problems)
        .compare(metadata, output.index_metadata, "metadata");
  }
}

void check_side_files(const OutputFolder& output, const Checkpoint& source, FileSystem& files,
                      ProblemList& problems, std::vector<std::string>& notes) {
  std::map<std::string, Json> expected;  // with the record's checksums
  const Json recorded = at_or_null(output.run_document, "files");
  for (const auto& [name, checksum] : recorded.items()) {
    if (recorded.is_object() && !is_model_card(name) && is_inside(name)) expected.emplace(name, checksum);
  }
  for (const char* name : kLoadedFiles) {
    if (files.status(source.folder() / name)) expected.try_emplace(name);
  }
  // Those that are read are held against the plan, and say what their absence means.
  for (const char* document : {"config.json", "hf_quant_config.json", "calibration/amax.safetensors"})
    expected.erase(document);
  if (!files.status(output.path / "model.safetensors")) expected.erase(kIndexName);
  for (const auto& [name, checksum] : expected) {
    const auto status = files.status(output.path / name);
    if (!status || status->is_folder)
      problems.add("files", printable(name) + ": is missing");
    else if (name != kIndexName)
      check_content(name, checksum, output, source, files, problems, notes);
  }
}

void check_run_document(const OutputFolder& output, const Checkpoint& source, const VerifyReport& report,
                        ProblemList& problems) {
  const Json& run = output.run_document;
  if (run.is_null()) return;
  JsonComparison comparison("nibblecast.json", problems);
  const Json blocks = at_or_null(run, "blocks");
  comparison.compare(source_identity(source), at_or_null(at_or_null(run, "source"), "identity"),
                     "source.identity");
  comparison.compare(report.blocks, at_or_null(blocks, "total"), "blocks.total");
  comparison.compare(report.requantized_blocks, at_or_null(blocks, "outside_window"),
                     "blocks.outside_window");
}

}  // namespace nibblecast
