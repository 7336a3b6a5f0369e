// cli/source.h - a checkpoint named by a user: a folder, or something close to one, or an address
// (remote/address.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "checkpoint/checkpoint.h"

namespace nibblecast {

// Checkpoint::open. Of an address the listing and all headers are fetched; its files can be read until the
// process ends. With HF_HUB_OFFLINE a model of the Hub is the snapshot in the cache. Else with a hint where
// `path` is a Hub id, the root of a model in the Hub's cache, or a folder that holds no checkpoint. Errors:
// kBadInput; of an address also kUsage, kIo and kUnsupported.
Checkpoint open_source(const std::string& path, bool require_config = true);

// What open_source() refuses of a folder without opening a file; kUsage for an address.
void require_checkpoint_folder(const std::string& path, bool require_config = true);

}  // namespace nibblecast
