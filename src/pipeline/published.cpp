#include "pipeline/published.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

#include "checkpoint/adapter.h"
#include "checkpoint/hub_download.h"
#include "checkpoint/run_record.h"
#include "pipeline/report.h"
#include "plan/engines.h"
#include "remote/address.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

std::string in_lower_case(std::string text) {
  std::ranges::transform(text, text.begin(),
                         [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return text;
}

bool is_picture(const std::string& name) {
  static constexpr std::array<std::string_view, 6> kEndings = {".png", ".jpg", ".jpeg",
                                                               ".svg", ".gif", ".webp"};
  return std::ranges::any_of(kEndings, [&](std::string_view ending) { return name.ends_with(ending); });
}

// A file at the top of the source.
bool is_models_own(const std::string& name) {
  static constexpr std::array<std::string_view, 12> kBeginnings = {
      "tokenizer",     "special_tokens_map", "added_tokens", "vocab",   "merges", "spiece",
      "sentencepiece", "chat_template",      "license",      "licence", "notice", "copying"};
  static constexpr std::array<std::string_view, 6> kEndings = {"config.json", ".jinja", ".py",
                                                               ".tiktoken",   ".model", ".tokens"};
  static constexpr std::array<std::string_view, 4> kTexts = {"readme.md", "readme.source.md", "readme",
                                                             "readme.txt"};
  if (name == kAdapterName) return false;
  return std::ranges::any_of(kBeginnings, [&](std::string_view part) { return name.starts_with(part); }) ||
         std::ranges::any_of(kEndings, [&](std::string_view part) { return name.ends_with(part); }) ||
         std::ranges::find(kTexts, name) != kTexts.end();
}

bool is_taken(const Path& file) {
  const std::string name = in_lower_case(file.filename().string()),
                    folder = in_lower_case(file.begin()->string());
  if (!file.has_parent_path()) return is_models_own(name) || is_picture(name);
  if (folder == "encoding") return true;
  if (folder == "chat_templates" || folder == "additional_chat_templates") return name.ends_with(".jinja");
  return (folder == "assets" || folder == "figures") && is_picture(name);
}

}  // namespace

bool is_licence(const std::string& name) {
  const std::string lower = in_lower_case(name);
  return lower.starts_with("license") || lower.starts_with("licence") || lower.starts_with("copying");
}

SideFiles side_files(const Checkpoint& source) {
  SideFiles files;
  const std::vector<Path> all = source.side_files();
  const bool is_output = std::ranges::find(all, Path("README.source.md")) != all.end();
  const bool has_record = source.files().status(source.folder() / kRecordName).has_value();
  for (const Path& file : all) {
    if (*file.begin() == kRecordFolder) continue;
    // Ours, and made anew.
    if (is_output && file == "README.md") continue;
    if (has_record && (file == kReportPageName || file == kReportName)) continue;
    (is_taken(file) ? files.taken : files.left_out).push_back(file);
  }
  return files;
}

Path name_in_output(const Path& side_file) {
  return side_file == "README.md" ? Path("README.source.md") : side_file;
}

std::vector<Engine> loading_engines(const Plan& plan) {
  const std::vector<Breach> breaches = breaches_of(plan);
  std::vector<Engine> engines;
  for (const Engine engine : kAllEngines) {
    if (std::ranges::find(breaches, engine, &Breach::engine) == breaches.end()) engines.push_back(engine);
  }
  return engines;
}

std::string hub_id(const Path& folder) {
  const std::string id = hub_repository(folder);
  return id.find('/') == id.npos ? "" : id;
}

std::string document_text(const Json& document) {
  return document.dump(2, ' ', true, Json::error_handler_t::replace) + "\n";
}

std::string folder_name(const Path& folder) {
  if (is_address(folder)) return name_of_address(folder);
  const Path whole = std::filesystem::absolute(folder).lexically_normal();
  return (whole.has_filename() ? whole : whole.parent_path()).filename().string();
}

std::string without_folders(const std::string& names) {
  std::string text;
  for (size_t begin = 0; begin <= names.size();) {
    const size_t end = std::min(names.find(',', begin), names.size());
    const Path one = names.substr(begin, end - begin);
    if (begin > 0) text += ',';
    text += (one.has_filename() ? one.filename() : one.parent_path().filename()).string();
    begin = end + 1;
  }
  return text;
}

Json published_attempts(Json attempts) {
  for (Json& attempt : attempts) {
    attempt.erase("host");
    attempt.erase("pid");
    const std::string end = attempt.value("end", "");
    if (end.empty() || end == "finished") continue;
    const bool by_signal =
        end.find("interrupted") != std::string::npos || end.find("stopped by signal") != std::string::npos;
    attempt["end"] = by_signal ? "interrupted" : "failed";
  }
  return attempts;
}

}  // namespace nibblecast
