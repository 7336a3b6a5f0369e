#include "cli/source.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>

#include "base/error.h"
#include "base/shell.h"
#include "calibration/hub_dataset.h"
#include "checkpoint/hub_download.h"
#include "checkpoint/index.h"
#include "cli/console.h"
#include "cli/summary.h"
#include "cli/text.h"
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
struct Remote {
  RemoteFiles files{system_files()};
  std::map<std::string, RemoteFolder*> folders;  // by what the user wrote
  std::string kept;                              // --keep-source
};

Remote& remote() {
  static Remote all;
  return all;
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
  if (!remote().files.status(path)) return;
  std::vector<std::string> names =
      parse_index(read_text(remote().files, path, kMostIndexBytes), path.string()).shards;
  names.emplace_back("config.json");
  folder.fetch_headers(names);
}

HubSettings source_settings() {
  HubSettings settings = hub_settings(system_files(), hub_cache());
  if (remote().kept.empty()) return settings;
  settings.cache = std::filesystem::absolute(remote().kept);
  settings.keeps = true;
  return settings;
}

std::unique_ptr<RemoteFolder> open_remote(const std::string& path, const HubSettings& settings,
                                          const SourceAddress& address) {
  if (address.hub) return open_hub_folder(settings, *address.hub, http_transport(), system_files());
  if (settings.keeps) {
    throw Error(ErrorKind::kUsage, {.file = path},
                "is no model of the Hub, which --keep-source stores alone");
  }
  return open_server_folder(address.url, http_transport());
}

OpenedFolder open_address(const std::string& path) {
  Remote& all = remote();
  if (const auto known = all.folders.find(path); known != all.folders.end())
    return {all.files, known->second->address()};
  const HubSettings settings = source_settings();
  const SourceAddress address = parse_address(path, settings.endpoint);
  if (settings.is_offline) {
    if (!address.hub)
      fail(path, "is on a server, and HF_HUB_OFFLINE forbids to ask it", "unset HF_HUB_OFFLINE");
    return {all.files, cached_snapshot(settings, *address.hub, system_files())};
  }
  RemoteFolder& folder = all.files.mount(open_remote(path, settings, address));
  all.folders[path] = &folder;
  fetch_headers(folder);
  return {all.files, folder.address()};
}

// "4 files, 1,000 bytes whole; of 2 only parts are here: a.safetensors (3 of 5 bytes)..."
void say_kept(HubStore& store, const std::string& address, const CommonOptions& common) {
  constexpr size_t kMostNames = 3;
  const HubStore::Report report = store.finish();
  if (!common.json)
    print_data(
        summary_line("kept source", fmt::format("{}: {}, {} bytes stored", store.folder().string(),
                                                count_text(report.files, "file"), grouped(report.bytes))));
  if (report.partial.empty()) return;
  std::string names;
  for (size_t index = 0; index < std::min(kMostNames, report.partial.size()); ++index) {
    const HubStore::Partial& part = report.partial[index];
    names += fmt::format("{}{} ({} of {} bytes)", index == 0 ? "" : ", ", part.name, grouped(part.bytes),
                         grouped(part.of));
  }
  if (report.partial.size() > kMostNames) names += "...";
  const std::string id = hub_id_of_address(address), commit = address.substr(address.rfind('@') + 1);
  print_warning(
      fmt::format("--keep-source: this command read only parts of {}, which stay incomplete: {}; `hf "
                  "download {} --revision {} "
                  "--cache-dir {}` gets them whole",
                  count_text(report.partial.size(), "file"), names, id, commit,
                  shell_word(store.folder().parent_path().string())));
}

}  // namespace

OpenedFolder open_folder(const std::string& path) {
  if (is_address(path)) return open_address(path);
  return {remote().files, path};
}

void add_keep_source(CLI::App& app) {
  add_path(app, "--keep-source", remote().kept, "DIR",
           "store what is read of hf://..., as the Hub's cache does");
}

void finish_kept_sources(const CommonOptions& common) {
  for (const auto& [path, folder] : remote().folders) {
    if (folder->store() != nullptr) say_kept(*folder->store(), folder->address(), common);
  }
}

void require_checkpoint_folder(const std::string& path, bool require_config) {
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
  if (!is_address(path)) {
    require_checkpoint_folder(path, require_config);
    return Checkpoint::open(path, system_files(), require_config);
  }
  const OpenedFolder opened = open_address(path);
  return Checkpoint::open(opened.path, opened.files, require_config);
}

}  // namespace nibblecast
