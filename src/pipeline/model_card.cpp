#include "pipeline/model_card.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include "checkpoint/parameters.h"
#include "pipeline/published.h"
#include "plan/engines.h"

namespace nibblecast {
namespace {

// As a YAML string: a folder may be called anything.
std::string quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string with_commas(uint64_t number) {
  std::string text = std::to_string(number);
  for (size_t at = text.size(); at > 3;) text.insert(at -= 3, ",");
  return text;
}

std::string counted(uint64_t number, const char* what) {
  return fmt::format("{} {}{}", with_commas(number), what, number == 1 ? "" : "s");
}

// "key: value" with a value of one line that needs no more of YAML than this.
bool is_plain_entry(const std::string& line) {
  const size_t colon = line.find(": ");
  if (colon == std::string::npos) return false;
  const std::string value = line.substr(line.find_first_not_of(' ', colon + 1));
  return !value.empty() && std::string_view("|>[{&*!%@`#").find(value[0]) == std::string_view::npos;
}

// Of the source's own card: lines of its front matter, by their keys.
std::map<std::string, std::string> source_front_matter(const Checkpoint& source) {
  constexpr uint64_t kLimit = 16 << 20;
  static constexpr std::array<std::string_view, 5> kKeys = {"license", "license_name", "license_link",
                                                            "library_name", "pipeline_tag"};
  std::map<std::string, std::string> entries;
  const std::filesystem::path card = source.folder() / "README.md";
  if (!source.files().status(card)) return entries;
  std::istringstream text(read_text(source.files(), card, kLimit));
  std::string line;
  if (!std::getline(text, line) || !line.starts_with("---")) return entries;
  while (std::getline(text, line) && !line.starts_with("---")) {
    if (line.ends_with('\r')) line.pop_back();
    const std::string key = line.substr(0, line.find(':'));
    if (std::ranges::find(kKeys, key) != kKeys.end() && is_plain_entry(line)) entries[key] = line + "\n";
  }
  return entries;
}

// FP8 weights are all that a recipe can make besides.
bool makes_nvfp4(const Plan& plan) {
  return std::ranges::any_of(plan.tensors, [](const PlannedTensor& tensor) {
    return tensor.make == Make::kNvfp4Weight || tensor.make == Make::kCastWeight;
  });
}

// NVFP4 of another dialect, as engines load it; not the release's MXFP4.
bool changes_dialect(const Plan& plan) {
  return plan.command == "convert" && plan.options.format != OutputFormat::kAuto;
}

std::string front_matter(const Checkpoint& source, const Plan& plan, const std::string& base) {
  const bool quantizes = plan.command == "quantize";
  const bool is_nvfp4 = changes_dialect(plan) || (quantizes && makes_nvfp4(plan));
  std::map<std::string, std::string> entries = source_front_matter(source);
  entries.try_emplace("library_name", "library_name: transformers\n");
  entries.try_emplace("pipeline_tag", "pipeline_tag: text-generation\n");
  if (!base.empty()) {
    entries["base_model"] = "base_model: " + quoted(base) + "\n";
    if (quantizes) entries["base_model_relation"] = "base_model_relation: quantized\n";
  }
  std::string text = "---\n";
  for (const auto& [key, line] : entries) text += line;
  return text + "tags:\n" + (is_nvfp4 ? "- nvfp4\n" : "") + "- nibblecast\n---\n\n";
}

std::string_view method_name(WeightMethod method) {
  switch (method) {
    case WeightMethod::kMax:
      return "max";
    case WeightMethod::kMse:
      return "mse";
    case WeightMethod::kFourOverSix:
      return "four_over_six";
    case WeightMethod::kWmse:
      return "wmse";
  }
  return "?";
}

// What routed experts and other weights became, and by which rule.
std::string weights_line(const Plan& plan, const RunRecord& record) {
  std::set<std::string> methods;
  for (const Stage& stage : plan.stages) {
    for (const PlannedGroup& group : stage.groups) {
      for (const PlannedLinear& linear : group.linears) {
        const Make make = plan.tensors[linear.weight].make;
        const bool is_cast = linear.try_cast && !record.losses.contains(plan.tensors[linear.weight].out.name);
        if (make == Make::kCastWeight) methods.insert("cast from MXFP4, no value changed");
        if (is_cast) methods.insert("cast from FP8 that is exactly MXFP4, no value changed");
        if (make == Make::kNvfp4Weight && !is_cast)
          methods.insert("quantized with the method `" + std::string(method_name(linear.method)) + "`");
        if (make == Make::kFp8Weight || make == Make::kFp8BlockWeight) methods.insert("quantized to FP8");
      }
    }
  }
  return fmt::format("- Weights: recipe `{}`; {}.\n", without_folders(plan.options.recipe),
                     fmt::join(methods, "; "));
}

std::string size_line(const Checkpoint& source, const Plan& plan) {
  const uint64_t parameters = parameter_count(source.tensors());
  const auto bits = [&](uint64_t bytes) {
    return parameters == 0 ? 0 : 8 * static_cast<double>(bytes) / static_cast<double>(parameters);
  };
  return fmt::format("- Size: {:.1f} GB, {:.2f} bits per weight (the source: {:.1f} GB, {:.2f}).\n",
                     static_cast<double>(plan.output_bytes) / 1e9, bits(plan.output_bytes),
                     static_cast<double>(plan.source_bytes) / 1e9, bits(plan.source_bytes));
}

std::string blocks_line(const RunRecord& record) {
  const CastCounts& blocks = record.blocks;
  if (blocks.blocks == 0) return "";
  return fmt::format("- {} of {} have exactly the source's values; {} {} requantized.\n",
                     with_commas(blocks.blocks - blocks.outside_window),
                     counted(blocks.blocks, "expert block"), with_commas(blocks.outside_window),
                     blocks.outside_window == 1 ? "was" : "were");
}

std::string losses_line(const RunRecord& record) {
  if (record.losses.empty()) return "";
  const auto worst = std::ranges::max_element(record.losses, {}, [](const auto& loss) {
    return loss.second.squares > 0 ? loss.second.squared_error / loss.second.squares : 0.0;
  });
  const RowLoss& loss = worst->second;
  return fmt::format(
      "- {} quantized; the largest relative error (norm of the error over that of the weight) is {:.3g} "
      "({}).\n",
      counted(record.losses.size(), "weight") + (record.losses.size() == 1 ? " was" : " were"),
      loss.squares > 0 ? std::sqrt(loss.squared_error / loss.squares) : 0.0, worst->first);
}

std::string activations_line(const Plan& plan, const Activations& activations) {
  if (plan.options.input_scale == InputScalePolicy::kConstant)
    return fmt::format("- Activation scales: {} everywhere, a constant; nothing was measured.\n",
                       input_scale_text(plan.options));
  if (activations.rows) {
    const CalibrationRows& rows = *activations.rows;
    return fmt::format("- Activation scales: calibrated on {} of at most {}, {} in all, of {}.\n",
                       counted(rows.ids.size(), "row"), counted(rows.longest(), "token"),
                       counted(rows.tokens(), "token"), without_folders(activations.origin));
  }
  if (!activations.amax) return "- Activation scales: none.\n";
  const auto& metadata = activations.amax->metadata;
  const auto rows = metadata.find("rows"), tokens = metadata.find("tokens");
  if (rows == metadata.end() || tokens == metadata.end())
    return "- Activation scales: taken from an amax file.\n";
  return fmt::format("- Activation scales: taken from an amax file of {} rows, {} tokens.\n", rows->second,
                     tokens->second);
}

// Of the licence what the source's card and folder say.
std::string licence_line(const Checkpoint& source) {
  const std::map<std::string, std::string> entries = source_front_matter(source);
  std::string name;
  for (const char* key : {"license_name", "license"}) {
    const auto entry = entries.find(key);
    if (!name.empty() || entry == entries.end()) continue;
    name = entry->second.substr(entry->second.find(": ") + 2);
    name = "`" + name.substr(0, name.find_last_not_of(" \n") + 1) + "`, ";
  }
  std::string files;
  for (const std::filesystem::path& file : side_files(source).taken) {
    if (is_licence(file.string())) files += (files.empty() ? "" : ", ") + file.string();
  }
  if (name.empty() && files.empty()) return "- Licence: the source's, whose folder names none.\n";
  return fmt::format("- Licence: {}the source's{}.\n", name, files.empty() ? "" : " (" + files + ")");
}

std::string_view form_text(OutputFormat format) {
  switch (format) {
    case OutputFormat::kModelOptV4:
      return "DeepSeek-V4's own form, with ModelOpt's keys";
    case OutputFormat::kCompressedTensors:
      return "llm-compressor's form (compressed-tensors)";
    default:
      return "ModelOpt's unified form";
  }
}

std::string engines_text(const Plan& plan) {
  const std::vector<Engine> engines = loading_engines(plan);
  const std::string form =
      fmt::format("It is written in {}; config.json says so, and engines want no option for it. ",
                  form_text(plan.options.format));
  if (engines.empty())
    return form + "No engine that was checked (vLLM, SGLang, TensorRT-LLM) loads this output.\n\n";
  std::string names, commands;
  for (const Engine engine : engines) {
    names += (names.empty() ? "" : ", ") + std::string(engine_release(engine));
    commands += "    " + serve_command(engine, plan.options.format, "PATH") + "\n";
  }
  return form +
         fmt::format(
             "It keeps the rules that these loaders have: {}. PATH: this folder, or its name on the Hub; N: "
             "GPUs.\n\n"
             "{}\n",
             names, commands);
}

std::string what_was_made(const Plan& plan) {
  const auto made = std::ranges::count_if(
      plan.tensors, [](const PlannedTensor& tensor) { return !tensor.is_copy() && tensor.begins_tensor(); });
  return fmt::format(
      "Made by nibblecast {}: {} of {} made anew, everything else is the source's, byte for byte.\n\n",
      NIBBLECAST_VERSION, with_commas(static_cast<uint64_t>(made)),
      counted(plan.file_tensors(), "tensor") + (plan.file_tensors() == 1 ? " is" : " are"));
}

constexpr const char* kFiles =
    "`nibblecast.json` records what was done and when; `README.source.md`, where present, is the source's "
    "own card.\n\n"
    "<!-- To publish this folder: hf upload-large-folder OWNER/NAME FOLDER --repo-type model -->\n";

std::string perplexity_line(const RunRecord& record) {
  if (!record.perplexity || record.perplexity->tokens == 0) return {};
  return fmt::format("- The source's perplexity on the calibration rows is {:.4g}.\n",
                     record.perplexity->value());
}

}  // namespace

std::string serve_command(Engine engine, OutputFormat format, const std::string& path) {
  const bool is_v4 = format == OutputFormat::kModelOptV4;
  switch (engine) {
    case Engine::kVllm:
      return "vllm serve " + path + " --tensor-parallel-size N" +
             (is_v4 ? " --kv-cache-dtype fp8 --tokenizer-mode deepseek_v4 --reasoning-parser deepseek_v4 "
                      "--enable-auto-tool-choice --tool-call-parser deepseek_v4"
                    : "");
    case Engine::kSglang:
      return "python3 -m sglang.launch_server --model-path " + path + " --tp-size N" +
             (is_v4 ? " --reasoning-parser deepseek-v4 --tool-call-parser deepseekv4" : "");
    case Engine::kTrtllm:
      return "trtllm-serve " + path + " --tp_size N" +
             (is_v4 ? " --ep_size N --custom_tokenizer deepseek_v4    # without speculative decoding" : "");
  }
  return "";
}

std::string model_card(const Checkpoint& source, const Plan& plan, const Activations& activations,
                       const RunRecord& record, const std::string& base) {
  const std::string known = base.empty() ? hub_id(source.folder()) : base;
  const std::string name = known.empty() ? folder_name(source.folder()) : known;
  std::string text = front_matter(source, plan, known);
  if (plan.command != "quantize") {
    text += fmt::format("# {}: {}\n\n", name, plan.made) + what_was_made(plan) + licence_line(source) + "\n";
    return text + (changes_dialect(plan) ? engines_text(plan) : "") + kFiles;
  }
  text += fmt::format("# {} in {}\n\n", name, makes_nvfp4(plan) ? "NVFP4" : "FP8") + what_was_made(plan) +
          weights_line(plan, record) + blocks_line(record) + losses_line(record) +
          activations_line(plan, activations) + perplexity_line(record) + size_line(source, plan) +
          licence_line(source) + "\n";
  return text + engines_text(plan) + kFiles;
}

}  // namespace nibblecast
