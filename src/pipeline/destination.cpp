#include "pipeline/destination.h"

#include <optional>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/json.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

constexpr uint64_t kRecordLimit = 1 << 30;

bool is_inside(const Path& inner, const Path& outer) {
  const Path relative =
      std::filesystem::weakly_canonical(inner).lexically_relative(std::filesystem::weakly_canonical(outer));
  return !relative.empty() && *relative.begin() != "..";
}

[[noreturn]] void refuse(const Path& destination, const std::string& problem, const std::string& hint) {
  throw Error(ErrorKind::kRefused, {.file = destination.string()}, problem, {.hint = hint});
}

// config.json is written last, so a folder that has it and our record is finished.
bool is_finished(FileSystem& files, const Path& destination, const JobDescription& job) {
  const Path record = destination / "nibblecast.json";
  if (!files.status(destination / "config.json") || !files.status(record)) return false;
  const Json document = parse_json(read_text(files, record, kRecordLimit), record.string());
  const auto identity = document.find("identity");
  return identity != document.end() && *identity == Json(identity_hash(job.identity));
}

}  // namespace

DestinationState check_destination(FileSystem& files, const Path& source, const Path& destination,
                                   const JobDescription& job) {
  if (is_inside(destination, source) || is_inside(source, destination)) {
    refuse(destination, "source and destination lie inside one another (source: " + source.string() + ")",
           "choose a folder elsewhere: the source is never written to");
  }
  const auto status = files.status(destination);
  if (!status) return DestinationState::kNew;
  if (!status->is_folder) refuse(destination, "is not a folder", "name a new or empty folder");
  const std::vector<std::string> names = files.list(destination);
  if (is_finished(files, destination, job)) return DestinationState::kFinished;
  if (const auto record = read_job(files, destination / kJobFolder)) {
    require_same_job(record->description, job, destination.string());
    return DestinationState::kPartial;
  }
  // A run that died before its job.json was whole left nothing but the job's folder.
  if (names.empty() || names == std::vector<std::string>{kJobFolder}) return DestinationState::kNew;
  refuse(destination, "is not empty, and not a partial output of this job", "name a new or empty folder");
}

Job open_destination(FileSystem& files, const Path& source, const Path& destination, const Path& work_folder,
                     const JobDescription& description, const Plan& plan) {
  if (check_destination(files, source, destination, description) == DestinationState::kFinished) {
    refuse(destination, "holds this job's finished output", "nothing is left to do");
  }
  Job job = Job::open(files, destination / kJobFolder, work_folder, description);
  std::set<std::string> partial;
  for (const PlannedShard& shard : plan.shards) {
    partial.insert(shard.name + ".partial");
    if (files.status(destination / shard.name)) {
      files.rename(destination / shard.name, destination / (shard.name + ".partial"));
    }
  }
  for (const std::string& name : files.list(destination)) {
    if (name != kJobFolder && !partial.contains(name)) files.remove(destination / name);
  }
  files.sync_folder(destination);
  return job;
}

void clean_finished_destination(FileSystem& files, const Path& destination) {
  const Path folder = destination / kJobFolder;
  if (!files.status(folder)) return;
  const auto record = read_job(files, folder);
  remove_job(files, folder, record ? record->work_folder : folder);
}

}  // namespace nibblecast
