// pipeline/kept_shards.h - what of an unfinished job's shards is really there.
//
// A tensor that the journal calls durable is believed without being read where its shard has the stamp
// (base/file.h) that the journal holds of it: nobody has written to the shard since. Every other shard - cut,
// replaced, restored, moved, or written to after the last entry, as one is when a process is killed - is read
// back: a tensor is there if its bytes give its checksum. So a shard's name and size prove nothing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/file.h"
#include "pipeline/job.h"
#include "plan/plan.h"

namespace nibblecast {

struct KeptShards {
  std::vector<bool> kept;           // [shard]: gone on with; the others are made anew
  std::vector<uint32_t> read_back;  // shards among the kept ones whose stamp was another
  std::vector<uint32_t> lost;       // durable tensors that are not there, ascending
  std::vector<std::string> notes;   // one line for each shard that lost some
};

using ReadBackProgress = std::function<void(uint64_t bytes_done, uint64_t bytes)>;

// Reads only. `memory_bytes` bounds its buffers. Errors: kRefused where a shard's name belongs to a folder or
// a link; kIo.
KeptShards find_kept_shards(FileSystem& files, const Plan& plan, const std::filesystem::path& destination,
                            const JobState& state, uint64_t memory_bytes, const ReadBackProgress& progress);

std::filesystem::path partial_path(const std::filesystem::path& destination, const PlannedShard& shard);

}  // namespace nibblecast
