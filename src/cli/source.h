// cli/source.h - a checkpoint folder named by a user, who may have named something close to it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "checkpoint/checkpoint.h"

namespace nibblecast {

// Checkpoint::open, with a hint where `path` is a Hub id, the root of a model in the Hub's cache, or a folder
// that holds no checkpoint. Errors: kBadInput.
Checkpoint open_source(const std::string& path, bool require_config = true);

// What open_source() refuses without opening a file.
void require_checkpoint_folder(const std::string& path, bool require_config = true);

}  // namespace nibblecast
