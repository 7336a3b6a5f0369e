#include "cli/source.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/error.h"
#include "calibration/hub_dataset.h"
#include "pipeline/output.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

// What a run adds to the source's documents: the model card, lists of modules, counts by layer.
constexpr uint64_t kDocumentBytes = 1 << 20;

// "deepseek-ai/DeepSeek-V4-Pro"
bool looks_like_hub_id(const std::string& path) {
  return std::count(path.begin(), path.end(), '/') == 1 && path.front() != '/' && path.front() != '.' &&
         path.front() != '~' && path.back() != '/';
}

// The snapshot of a model in the Hub's cache (models--OWNER--NAME), or the pattern of its name.
Path snapshot_of(const Path& model) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(model / "snapshots", ignored)) {
    if (std::filesystem::exists(entry.path() / "config.json", ignored)) return entry.path();
  }
  return model / "snapshots" / "REVISION";
}

[[noreturn]] void fail(const std::string& path, const std::string& problem, const std::string& hint) {
  throw Error(ErrorKind::kBadInput, {.file = path}, problem,
              {.expected = "a checkpoint folder: config.json, model.safetensors.index.json and its shards",
               .hint = hint});
}

[[noreturn]] void fail_missing(const std::string& path) {
  if (!looks_like_hub_id(path)) fail(path, "there is no such folder", "");
  std::string cached = "models--" + path;
  cached.replace(cached.find('/'), 1, "--");
  fail(path, "there is no such folder",
       fmt::format(
           "a Hub id is not a path: download it with `hf download {}` and give the folder it prints ({})",
           path, snapshot_of(hub_cache() / cached).string()));
}

uint64_t json_bytes(const Json& json) { return json.dump(2).size(); }

}  // namespace

void require_checkpoint_folder(const std::string& path, bool require_config) {
  FileSystem& files = system_files();
  const auto status = files.status(path);
  if (!status) fail_missing(path);
  if (!status->is_folder) fail(path, "is not a folder", "give the folder that the file lies in");
  if (files.status(Path(path) / "snapshots")) {
    fail(path, "is a model's root in the Hub cache", "give the snapshot: " + snapshot_of(path).string());
  }
  const bool has_weights = files.status(Path(path) / "model.safetensors.index.json") ||
                           files.status(Path(path) / "model.safetensors");
  if (require_config && !files.status(Path(path) / "config.json")) {
    fail(path, "holds no config.json",
         files.status(Path(path) / ".nibblecast") ? "it is an unfinished output"
                                                  : "is the download complete?");
  }
  if (!has_weights) fail(path, "holds no weights", "is the download complete?");
}

Checkpoint open_source(const std::string& path, bool require_config) {
  require_checkpoint_folder(path, require_config);
  return Checkpoint::open(path, system_files(), require_config);
}

uint64_t disk_need(const Checkpoint& source, const Plan& plan) {
  // nibblecast.json quotes the source's headers, config and index as strings: each quotation mark takes one
  // more byte.
  uint64_t quoted = source.config_text().size() + source.index_text().size();
  for (const Shard& shard : source.shards()) quoted += shard.header_json.size();
  return plan.output_file_bytes + side_file_bytes(source) + 2 * quoted + json_bytes(plan.config) +
         json_bytes(plan.hf_quant_config) + json_bytes(plan.index) + plan.config_text.size() +
         plan.index_text.size() + kDocumentBytes;
}

uint64_t folder_bytes(const Path& folder) {
  uint64_t bytes = 0;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder, ignored)) {
    struct stat status = {};
    if (lstat(entry.path().c_str(), &status) == 0) bytes += static_cast<uint64_t>(status.st_blocks) * 512;
  }
  return bytes;
}

}  // namespace nibblecast
