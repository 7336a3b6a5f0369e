#include "cli/fetch_dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "cli/console.h"
#include "cli/text.h"
#include "remote/hub.h"
#include "remote/remote_files.h"

namespace nibblecast {
namespace {

HubAddress address_of(const HubDataset& dataset) {
  const size_t slash = dataset.repository.find('/');
  return {.owner = std::string(dataset.repository.substr(0, slash)),
          .name = std::string(dataset.repository.substr(slash + 1)),
          .revision = "main",
          .is_dataset = true};
}

// Of each split the first, relative to the folder.
std::vector<std::string> first_files(RemoteFiles& files, const RemoteFolder& folder,
                                     const HubDataset& dataset) {
  std::vector<std::string> names;
  for (const SplitFiles& split : find_splits(files, dataset, {folder.address()}))
    names.push_back(std::filesystem::path(split.files.front()).lexically_relative(folder.address()).string());
  return names;
}

void fetch_file(RemoteFolder& folder, const std::string& name, const HubDataset& dataset) {
  constexpr uint64_t kPieceBytes = 2 << 20;
  constexpr size_t kThreads = 16;
  const auto file = folder.open(name, Access::kReadDirect);
  if (!file->is_remote()) return;
  const uint64_t size = file->size();
  print_line(fmt::format("fetching {} into the Hub's cache: {}, {}", dataset.name, name, size_text(size)));
  run_on_threads((size + kPieceBytes - 1) / kPieceBytes, kThreads, [&](size_t piece) {
    const uint64_t begin = piece * kPieceBytes, end = std::min(size, begin + kPieceBytes);
    if (folder.store()->holds(name, begin, end)) return;
    std::vector<std::byte> bytes(end - begin);
    file->read(begin, bytes);
  });
}

}  // namespace

void fetch_dataset(const HubDataset& dataset) {
  HubSettings settings = hub_settings(system_files(), hub_cache());
  if (settings.is_offline) return;
  settings.keeps = true;
  try {
    RemoteFiles files(system_files());
    RemoteFolder& folder =
        files.mount(open_hub_folder(settings, address_of(dataset), make_http_transport(), system_files()));
    for (const std::string& name : first_files(files, folder, dataset)) fetch_file(folder, name, dataset);
    folder.store()->finish();
  } catch (const Error& error) {
    throw Error(
        error.kind(), {.file = std::string(dataset.name)},
        std::string("this data set is not in the Hub's cache, and cannot be fetched: ") + error.what(),
        {.hint = download_hint(dataset, dataset.first_files)});
  }
}

}  // namespace nibblecast
