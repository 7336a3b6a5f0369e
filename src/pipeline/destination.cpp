#include "pipeline/destination.h"

#include <optional>
#include <vector>

#include "base/error.h"
#include "base/json.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

constexpr const char* kJobFolder = ".nibblecast";
constexpr uint64_t kJobFileLimit = 1 << 20;

bool is_inside(const Path& inner, const Path& outer) {
  const Path relative =
      std::filesystem::weakly_canonical(inner).lexically_relative(std::filesystem::weakly_canonical(outer));
  return !relative.empty() && *relative.begin() != "..";
}

[[noreturn]] void refuse(const Path& destination, const std::string& problem, const std::string& hint) {
  throw Error(ErrorKind::kRefused, {.file = destination.string()}, problem, {.hint = hint});
}

// The identity of the job that DST belongs to; nothing where there is no marker.
std::optional<std::string> job_of(FileSystem& files, const Path& destination) {
  const Path marker = destination / kJobFolder / "job.json";
  if (!files.status(marker)) return std::nullopt;
  const Json job = parse_json(read_text(files, marker, kJobFileLimit), marker.string());
  return job.is_object() && job.contains("identity") && job["identity"].is_string()
             ? job["identity"].get<std::string>()
             : std::string();
}

}  // namespace

void check_destination(FileSystem& files, const Path& source, const Path& destination,
                       const std::string& identity) {
  if (is_inside(destination, source) || is_inside(source, destination)) {
    refuse(destination, "source and destination lie inside one another (source: " + source.string() + ")",
           "choose a folder elsewhere: the source is never written to");
  }
  const auto status = files.status(destination);
  if (!status) return;
  if (!status->is_folder) refuse(destination, "is not a folder", "name a new or empty folder");
  const std::optional<std::string> job = job_of(files, destination);
  const std::vector<std::string> names = files.list(destination);
  // A run that died before its marker was whole left nothing but the marker's folder.
  if (names.empty() || (!job && names == std::vector<std::string>{kJobFolder})) return;
  if (!job)
    refuse(destination, "is not empty, and not a partial output of this job", "name a new or empty folder");
  if (*job != identity) {
    refuse(destination, "holds the partial output of another job (other source, rows or options)",
           "run that job again to finish it, or name another folder");
  }
}

void open_destination(FileSystem& files, const Path& source, const Path& destination,
                      const std::string& identity) {
  check_destination(files, source, destination, identity);
  files.create_folders(destination);
  // The marker stays until last, so that a crash in here leaves a folder that is still this job's.
  for (const std::string& name : files.list(destination)) {
    if (name != kJobFolder) files.remove(destination / name);
  }
  files.create_folders(destination / kJobFolder);
  write_text_durably(
      files, destination / kJobFolder / "job.json",
      Json{{"identity", identity}, {"source", source.string()}, {"version", NIBBLECAST_VERSION}}.dump(2));
  files.sync_folder(destination);
}

void close_destination(FileSystem& files, const Path& destination) {
  files.remove(destination / kJobFolder);
  files.sync_folder(destination);
}

}  // namespace nibblecast
