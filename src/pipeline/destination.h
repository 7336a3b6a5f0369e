// pipeline/destination.h - the folder a job writes into: who may, and how it becomes a checkpoint.
//
// While a job runs, DST holds `.nibblecast` (pipeline/job.h) and files named *.partial. At the end the shards
// get their names, then everything else, the index and config.json last, and `.nibblecast` goes: a folder
// without config.json is not a checkpoint, and cannot be taken for one.
#pragma once

#include <filesystem>
#include <string>

#include "base/file.h"
#include "pipeline/job.h"
#include "plan/plan.h"

namespace nibblecast {

inline constexpr const char* kJobFolder = ".nibblecast";

// Whether `path` is `folder` or lies in it; neither need exist, links are followed.
bool lies_in(FileSystem& files, const std::filesystem::path& path, const std::filesystem::path& folder);

enum class DestinationState {
  kNew,       // nothing there, or an empty folder
  kPartial,   // this job was begun there
  kFinished,  // this job's finished output
};

// Changes nothing. Refuses (kRefused): a DST that holds anything else; SRC inside DST, DST inside SRC, or
// both the same; another job's, naming what differs; a source that was changed since.
DestinationState check_destination(FileSystem& files, const std::filesystem::path& source,
                                   const std::filesystem::path& destination, const JobDescription& job);

// Makes DST ready for `job`, which is taken up where it stands: shards that had got their names are partial
// again, what else the job had made is removed. `work_folder`: see Job::open. Refuses (kRefused) as
// check_destination(), and a finished DST.
Job open_destination(const Checkpoint& source, const std::filesystem::path& destination,
                     const std::filesystem::path& work_folder, const JobDescription& job, const Plan& plan);

// Of a finished DST: removes what a crash in the very last step left.
void clean_finished_destination(FileSystem& files, const std::filesystem::path& destination);

}  // namespace nibblecast
