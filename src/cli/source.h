// cli/source.h - a checkpoint folder named by a user, who may have named something close to it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "checkpoint/checkpoint.h"
#include "plan/cost.h"
#include "plan/plan.h"

namespace nibblecast {

// Checkpoint::open, with a hint where `path` is a Hub id, the root of a model in the Hub's cache, or a folder
// that holds no checkpoint. Errors: kBadInput.
Checkpoint open_source(const std::string& path, bool require_config = true);

// What open_source() refuses without opening a file.
void require_checkpoint_folder(const std::string& path, bool require_config = true);

// Bytes that a finished output takes on disk: shards, side files, documents.
uint64_t disk_need(const Checkpoint& source, const Plan& plan);
// Bytes that the files of a folder take on disk, as far as they can be read: what a job that goes on need not
// take again.
uint64_t folder_bytes(FileSystem& files, const std::filesystem::path& folder);

}  // namespace nibblecast
