// checkpoint/hub_download.h - folders as the Hub's clients make them, and what is said where one is not
// whole.
#pragma once

#include <filesystem>
#include <string>

#include "base/file.h"

namespace nibblecast {

// "deepseek-ai/DeepSeek-V4-Pro" of a folder in the Hub's cache
// (.../models--deepseek-ai--DeepSeek-V4-Pro/snapshots/REVISION), or of hf://deepseek-ai/DeepSeek-V4-Pro;
// empty for any other path.
std::string hub_repository(const std::filesystem::path& folder);

// What to do about files that are missing in `folder`: the command that gets them, and whether a download has
// stopped in the middle (an `*.incomplete` file beside them, in the cache's blobs, or in
// .cache/huggingface/download).
std::string missing_files_hint(FileSystem& files, const std::filesystem::path& folder);

}  // namespace nibblecast
