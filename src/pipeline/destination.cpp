#include "pipeline/destination.h"

#include <algorithm>
#include <optional>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "pipeline/kept_shards.h"
#include "pipeline/output.h"
#include "remote/address.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

constexpr uint64_t kRecordLimit = 1 << 30;

[[noreturn]] void refuse(const Path& destination, const std::string& problem, const std::string& hint) {
  throw Error(ErrorKind::kRefused, {.file = destination.string()}, problem, {.hint = hint});
}

// The identity of the job whose finished output this is: config.json is written last, so a folder that has it
// and our record is finished.
std::optional<std::string> finished_identity(FileSystem& files, const Path& destination) {
  const Path record = destination / "nibblecast.json";
  if (!files.status(destination / "config.json") || !files.status(record)) return std::nullopt;
  const Json document = parse_json(read_text(files, record, kRecordLimit), record.string());
  return document.is_object() ? document.value("identity", Json()).dump() : "";
}

}  // namespace

bool lies_in(FileSystem& files, const Path& path, const Path& folder) {
  const Path relative = files.real_path(path).lexically_relative(files.real_path(folder));
  return !relative.empty() && *relative.begin() != "..";
}

DestinationState check_destination(FileSystem& files, const Path& source, const Path& destination,
                                   const JobDescription& job) {
  if (is_address(destination)) refuse(destination, "is an address", "name a folder: servers are only read");
  if (lies_in(files, destination, source) || lies_in(files, source, destination)) {
    refuse(destination, "source and destination lie inside one another (source: " + source.string() + ")",
           "choose a folder elsewhere: the source is never written to");
  }
  const auto status = files.status(destination);
  if (!status) return DestinationState::kNew;
  if (!status->is_folder) refuse(destination, "is not a folder", "name a new or empty folder");
  const std::vector<std::string> names = files.list(destination);
  if (const auto identity = finished_identity(files, destination)) {
    if (*identity == Json(identity_hash(job.identity)).dump()) return DestinationState::kFinished;
    refuse(destination, "holds the finished output of another job", "name a new or empty folder");
  }
  if (const auto record = read_job_document(files, destination / kJobFolder)) {
    require_same_job(record->description, job, destination.string());
    return DestinationState::kPartial;
  }
  // A run that died before its job.json was whole left nothing but the job's folder.
  if (names.empty() || names == std::vector<std::string>{kJobFolder}) return DestinationState::kNew;
  refuse(destination, "is not empty, and not a partial output of this job", "name a new or empty folder");
}

Job open_destination(const Checkpoint& source, const Path& destination, const Path& work_folder,
                     const JobDescription& description, const Plan& plan) {
  FileSystem& files = source.files();
  if (check_destination(files, source.folder(), destination, description) == DestinationState::kFinished) {
    refuse(destination, "holds this job's finished output", "nothing is left to do");
  }
  Job job = Job::open(files, destination / kJobFolder, work_folder, description);
  const std::set<Path> folders = shard_folders(plan, destination);
  for (const Path& folder : folders) {
    if (folder != destination) files.create_folders(folder);
  }
  for (const PlannedShard& shard : plan.shards) {
    // Where both are there, the one with the name is not from this job's end.
    if (files.status(destination / shard.name) && !files.status(partial_path(destination, shard))) {
      files.rename(destination / shard.name, partial_path(destination, shard));
    }
  }
  const std::vector<std::string> there = files.list(destination);
  for (const Path& name : output_names(source)) {
    const bool may_be_there = std::ranges::find(there, name.begin()->string()) != there.end();
    if (may_be_there && files.status(destination / name)) files.remove(destination / name);
  }
  for (const Path& folder : folders) files.sync_folder(folder);
  return job;
}

void clean_finished_destination(FileSystem& files, const Path& destination) {
  const Path folder = destination / kJobFolder;
  if (!files.status(folder)) return;
  const auto record = read_job_document(files, folder);
  remove_job(files, folder, record ? record->work_folder : folder);
}

}  // namespace nibblecast
