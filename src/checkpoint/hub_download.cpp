#include "checkpoint/hub_download.h"

#include <string_view>

#include "checkpoint/printable.h"
#include "remote/address.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

constexpr std::string_view kIncomplete = ".incomplete";

bool is_folder(FileSystem& files, const Path& path) {
  const auto status = files.status(path);
  return status && status->is_folder;
}

// The first file of a download that has not ended; empty where there is none.
std::string incomplete_file(FileSystem& files, const Path& folder) {
  for (const Path& place :
       {folder, folder / ".cache" / "huggingface" / "download", folder / ".." / ".." / "blobs"}) {
    if (!is_folder(files, place)) continue;
    for (const std::string& name : files.list(place)) {
      if (name.ends_with(kIncomplete)) return name;
    }
  }
  return {};
}

}  // namespace

std::string hub_repository(const Path& folder) {
  if (is_address(folder)) return hub_id_of_address(folder);
  constexpr std::string_view kPrefix = "models--";
  for (const Path& part : std::filesystem::absolute(folder).lexically_normal()) {
    std::string name = part.string();
    if (!name.starts_with(kPrefix)) continue;
    name.erase(0, kPrefix.size());
    if (const size_t dashes = name.find("--"); dashes != std::string::npos) name.replace(dashes, 2, "/");
    return name;
  }
  return {};
}

std::string missing_files_hint(FileSystem& files, const Path& folder) {
  if (is_address(folder)) return "the server does not have them: is it the right model, and revision?";
  const std::string repository = hub_repository(folder);
  const std::string command = repository.empty()
                                  ? "`hf download OWNER/NAME --local-dir " + printable(folder.string()) + "`"
                                  : "`hf download " + printable(repository) + "`";
  const std::string stopped = incomplete_file(files, folder);
  if (stopped.empty()) return "is the download complete? " + command + " gets what is missing";
  return "a download has stopped in the middle (" + printable(stopped) + " is there): " + command +
         " goes on with it";
}

}  // namespace nibblecast
