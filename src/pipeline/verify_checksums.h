// pipeline/verify_checksums.h - holds an output against its own record, without the source: is it still what
// was written?
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/file.h"
#include "pipeline/job.h"
#include "pipeline/verify.h"
#include "plan/plan.h"

namespace nibblecast {

struct ChecksumReport {
  std::vector<std::string> problems;  // one line each, naming tensor or file
  std::vector<std::string> notes;     // model cards that were edited or taken away
  uint64_t tensors = 0, files = 0;    // compared
  uint64_t bytes = 0;                 // of the tensors

  bool ok() const { return problems.empty(); }
};

// A finished output: every tensor, header and file that nibblecast.json names, and nothing else in the
// shards. Errors: kBadInput where the folder holds no record of ours; kIo.
ChecksumReport verify_checksums(FileSystem& files, const std::filesystem::path& output,
                                const VerifyOptions& options);

// An unfinished one: every tensor that the job's journal calls durable.
ChecksumReport verify_durable(FileSystem& files, const Plan& plan, const JobState& state,
                              const std::filesystem::path& destination, const VerifyOptions& options);

// XXH3-128 of a whole file.
std::string file_checksum(FileSystem& files, const std::filesystem::path& path);

}  // namespace nibblecast
