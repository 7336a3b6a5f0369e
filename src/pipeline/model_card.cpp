#include "pipeline/model_card.h"

#include <fmt/format.h>

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

}  // namespace

std::string model_card(const Checkpoint& source, const Plan& plan, const Activations& activations,
                       const RunRecord& record) {
  const std::string base = base_model(source.folder());
  const std::string calibration = activations.rows
                                      ? fmt::format("calibrated on {} rows, {} tokens",
                                                    activations.rows->ids.size(), activations.rows->tokens())
                                      : "taken from an amax file";
  return fmt::format(
      "---\nbase_model: {}\nbase_model_relation: quantized\n{}tags:\n- nvfp4\n- nibblecast\n---\n\n"
      "# {} in NVFP4\n\n"
      "Made by nibblecast {} with recipe `{}`: the routed experts are NVFP4, everything else is the "
      "source's, byte for byte.\n\n"
      "- {} of {} expert blocks have exactly the source's values; {} were requantized.\n"
      "- Activation scales: {}.\n\n"
      "`nibblecast.json` records what was done; `README.source.md`, where present, is the source's own "
      "card.\n",
      quoted(base), licence_lines(source), base, NIBBLECAST_VERSION, plan.options.recipe,
      record.blocks.blocks - record.blocks.outside_window, record.blocks.blocks, record.blocks.outside_window,
      calibration);
}

}  // namespace nibblecast
