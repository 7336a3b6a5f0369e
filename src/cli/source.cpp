#include "cli/source.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "calibration/hub_dataset.h"
#include "checkpoint/hub_download.h"
#include "checkpoint/index.h"
#include "remote/address.h"
#include "remote/hub.h"
#include "remote/remote_files.h"

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

[[noreturn]] void fail_missing(const std::string& path) {
  if (const size_t scheme = path.find(":/"); scheme < path.find('/')) {
    fail(path, "is an address that is not read",
         "hf://OWNER/NAME and https://HOST/FOLDER are; or download it and give its folder");
  }
  if (!looks_like_hub_id(path)) fail(path, "there is no such folder", "");
  std::string cached = "models--" + path;
  cached.replace(cached.find('/'), 1, "--");
  fail(path, "there is no such folder",
       fmt::format("a Hub id is not a path: hf://{} reads it from the Hub; or download it with `hf "
                   "download {}` and give the folder it prints ({})",
                   path, path, snapshot_of(hub_cache() / cached).string()));
}

// Of this process; what was opened may be read until its end.
RemoteFiles& remote_files() {
  static RemoteFiles files(system_files());
  return files;
}

std::shared_ptr<HttpTransport> http_transport() {
  static const std::shared_ptr<HttpTransport> transport = make_http_transport();
  return transport;
}

// Many at once, so that a model of a hundred shards is opened in the time of a few.
void fetch_headers(RemoteFolder& folder) {
  constexpr const char* kIndexName = "model.safetensors.index.json";
  constexpr uint64_t kMostIndexBytes = 100'000'000;
  const Path path = Path(folder.address()) / kIndexName;
  if (!remote_files().status(path)) return;
  const std::string file = path.string();
  folder.fetch_headers(parse_index(read_text(remote_files(), path, kMostIndexBytes), file).shards);
}

Checkpoint open_remote(RemoteFolder& folder, bool require_config) {
  fetch_headers(folder);
  return Checkpoint::open(folder.address(), remote_files(), require_config);
}

Checkpoint open_address(const std::string& path, bool require_config) {
  const HubSettings settings = hub_settings(system_files(), hub_cache());
  const SourceAddress address = parse_address(path, settings.endpoint);
  if (settings.is_offline) {
    if (!address.hub)
      fail(path, "is on a server, and HF_HUB_OFFLINE forbids to ask it", "unset HF_HUB_OFFLINE");
    const Path snapshot = cached_snapshot(settings, *address.hub, system_files());
    return Checkpoint::open(snapshot, system_files(), require_config);
  }
  return open_remote(remote_files().mount(address.hub ? open_hub_folder(settings, *address.hub,
                                                                        http_transport(), system_files())
                                                      : open_server_folder(address.url, http_transport())),
                     require_config);
}

}  // namespace

void require_checkpoint_folder(const std::string& path, bool require_config) {
  if (is_address(path)) {
    throw Error(ErrorKind::kUsage, {.file = path}, "is an address, and this needs a folder",
                {.hint = "download the model and give its folder"});
  }
  FileSystem& files = system_files();
  const auto status = files.status(path);
  if (!status) fail_missing(path);
  if (!status->is_folder) fail(path, "is not a folder", "give the folder that the file lies in");
  if (files.status(Path(path) / "snapshots")) {
    fail(path, "is a model's root in the Hub cache", "give the snapshot: " + snapshot_of(path).string());
  }
  if (files.status(Path(path) / "config.json")) return;
  if (files.status(Path(path) / ".nibblecast"))
    fail(path, "is an unfinished output: it holds no config.json yet",
         "`nibblecast status` says how far it is");
  if (require_config) fail(path, "holds no config.json", missing_files_hint(files, path));
}

Checkpoint open_source(const std::string& path, bool require_config) {
  if (is_address(path)) return open_address(path, require_config);
  require_checkpoint_folder(path, require_config);
  return Checkpoint::open(path, system_files(), require_config);
}

}  // namespace nibblecast
