#include "cli/source.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "base/error.h"
#include "calibration/hub_dataset.h"
#include "checkpoint/hub_download.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

// "deepseek-ai/DeepSeek-V4-Pro"
bool looks_like_hub_id(const std::string& path) {
  return std::count(path.begin(), path.end(), '/') == 1 && path.front() != '/' && path.front() != '.' &&
         path.front() != '~' && path.back() != '/';
}

// The snapshot of a model in the Hub's cache (models--OWNER--NAME), or the pattern of its name.
Path snapshot_of(const Path& model) {
  FileSystem& files = system_files();
  const Path snapshots = model / "snapshots";
  if (const auto status = files.status(snapshots); status && status->is_folder) {
    for (const std::string& revision : files.list(snapshots))
      if (files.status(snapshots / revision / "config.json")) return snapshots / revision;
  }
  return snapshots / "REVISION";
}

[[noreturn]] void fail(const std::string& path, const std::string& problem, const std::string& hint) {
  throw Error(ErrorKind::kBadInput, {.file = path}, problem,
              {.expected = "a checkpoint folder: config.json, model.safetensors.index.json and its shards",
               .hint = hint});
}

// "OWNER/NAME" of hf://OWNER/NAME and https://huggingface.co/OWNER/NAME/tree/main, these two words for an
// address elsewhere; nothing for a path. A path that was normalized has lost one of the two slashes.
std::optional<std::string> repository_of_address(const std::string& text) {
  const size_t colon = text.find(":/");
  if (colon == std::string::npos || text.find('/') < colon) return std::nullopt;
  std::vector<std::string> parts;
  for (const Path& part : Path(text.substr(colon + 1)).relative_path()) parts.push_back(part.string());
  const bool is_hub =
      text.starts_with("hf:") || (!parts.empty() && (parts[0] == "huggingface.co" || parts[0] == "hf.co"));
  if (!text.starts_with("hf:") && !parts.empty()) parts.erase(parts.begin());
  return is_hub && parts.size() >= 2 ? parts[0] + "/" + parts[1] : "OWNER/NAME";
}

[[noreturn]] void fail_missing(const std::string& path) {
  if (const auto repository = repository_of_address(path)) {
    fail(path, "is an address, not a folder; nothing is downloaded here",
         fmt::format("`hf download {}` gets it and prints its folder: give that", *repository));
  }
  if (!looks_like_hub_id(path)) fail(path, "there is no such folder", "");
  std::string cached = "models--" + path;
  cached.replace(cached.find('/'), 1, "--");
  fail(path, "there is no such folder",
       fmt::format(
           "a Hub id is not a path: download it with `hf download {}` and give the folder it prints ({})",
           path, snapshot_of(hub_cache() / cached).string()));
}

}  // namespace

void require_checkpoint_folder(const std::string& path, bool require_config) {
  FileSystem& files = system_files();
  const auto status = files.status(path);
  if (!status) fail_missing(path);
  if (!status->is_folder) fail(path, "is not a folder", "give the folder that the file lies in");
  if (files.status(Path(path) / "snapshots")) {
    fail(path, "is a model's root in the Hub cache", "give the snapshot: " + snapshot_of(path).string());
  }
  if (require_config && !files.status(Path(path) / "config.json")) {
    fail(path, "holds no config.json",
         files.status(Path(path) / ".nibblecast") ? "it is an unfinished output"
                                                  : missing_files_hint(files, path));
  }
}

Checkpoint open_source(const std::string& path, bool require_config) {
  require_checkpoint_folder(path, require_config);
  return Checkpoint::open(path, system_files(), require_config);
}

}  // namespace nibblecast
