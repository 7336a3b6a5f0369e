#include "pipeline/model_card.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <sstream>

namespace nibblecast {
namespace {

// ".../models--deepseek-ai--DeepSeek-V4-Pro/snapshots/<revision>" is "deepseek-ai/DeepSeek-V4-Pro".
std::string base_model(const std::filesystem::path& source) {
  const std::filesystem::path folder = std::filesystem::absolute(source).lexically_normal();
  for (const std::filesystem::path& part : folder) {
    std::string name = part.string();
    if (!name.starts_with("models--")) continue;
    name.erase(0, std::string_view("models--").size());
    if (const size_t dashes = name.find("--"); dashes != std::string::npos) name.replace(dashes, 2, "/");
    return name;
  }
  return folder.filename().empty() ? folder.parent_path().filename().string() : folder.filename().string();
}

// The `license...:` lines of the source's own front matter.
std::string licence_lines(const Checkpoint& source) {
  constexpr uint64_t kLimit = 16 << 20;
  const std::filesystem::path card = source.folder() / "README.md";
  if (!source.files().status(card)) return "";
  std::istringstream text(read_text(source.files(), card, kLimit));
  std::string line, lines;
  if (!std::getline(text, line) || !line.starts_with("---")) return "";
  while (std::getline(text, line) && !line.starts_with("---")) {
    if (line.starts_with("license")) lines += line + "\n";
  }
  return lines;
}

// As a YAML string: a folder may be called anything.
std::string quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string activations_text(const Activations& activations) {
  if (activations.rows) {
    return fmt::format("calibrated on {} rows, {} tokens", activations.rows->ids.size(),
                       activations.rows->tokens());
  }
  return activations.amax ? "taken from an amax file" : "none";
}

std::string losses_line(const RunRecord& record) {
  const auto worst = std::ranges::max_element(record.losses, {}, [](const auto& loss) {
    return loss.second.squares > 0 ? loss.second.squared_error / loss.second.squares : 0.0;
  });
  const RowLoss& loss = worst->second;
  return fmt::format("- {} weights were quantized; the largest relative error is {:.3g} ({}).\n",
                     record.losses.size(),
                     loss.squares > 0 ? std::sqrt(loss.squared_error / loss.squares) : 0.0, worst->first);
}

// Of what a command made that quantizes nothing.
std::string plain_card(const Checkpoint& source, const Plan& plan, const std::string& base, ptrdiff_t made) {
  return fmt::format(
      "---\nbase_model: {}\n{}tags:\n- nibblecast\n---\n\n"
      "# {}: {}\n\n"
      "Made by nibblecast {}: {} of {} tensors are made anew, everything else is the source's, byte for "
      "byte.\n\n"
      "`nibblecast.json` records what was done; `README.source.md`, where present, is the source's own "
      "card.\n",
      quoted(base), licence_lines(source), base, plan.made, NIBBLECAST_VERSION, made, plan.file_tensors());
}

}  // namespace

std::string model_card(const Checkpoint& source, const Plan& plan, const Activations& activations,
                       const RunRecord& record) {
  const std::string base = base_model(source.folder());
  const auto made = std::ranges::count_if(plan.tensors, [](const PlannedTensor& tensor) {
    return tensor.make != Make::kKeep && tensor.begins_tensor();
  });
  if (plan.command != "quantize") return plain_card(source, plan, base, made);
  std::string text = fmt::format(
      "---\nbase_model: {}\nbase_model_relation: quantized\n{}tags:\n- nvfp4\n- nibblecast\n---\n\n"
      "# {} in NVFP4\n\n"
      "Made by nibblecast {} with recipe `{}`: {} of {} tensors are made anew, everything else is the "
      "source's, "
      "byte for byte.\n\n",
      quoted(base), licence_lines(source), base, NIBBLECAST_VERSION, plan.options.recipe, made,
      plan.file_tensors());
  const CastCounts& blocks = record.blocks;
  if (blocks.blocks > 0) {
    text += fmt::format("- {} of {} expert blocks have exactly the source's values; {} were requantized.\n",
                        blocks.blocks - blocks.outside_window, blocks.blocks, blocks.outside_window);
  }
  if (!record.losses.empty()) text += losses_line(record);
  text += "- Activation scales: " + activations_text(activations) + ".\n";
  if (record.perplexity && record.perplexity->tokens > 0) {
    text += fmt::format("- The source's perplexity on the calibration rows is {:.4g}.\n",
                        record.perplexity->value());
  }
  text += "\n";
  return text +
         "`nibblecast.json` records what was done; `README.source.md`, where present, is the source's own "
         "card.\n";
}

}  // namespace nibblecast
