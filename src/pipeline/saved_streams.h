// pipeline/saved_streams.h - the residual streams between two layers, on disk.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

#include "base/file.h"
#include "pipeline/job.h"

namespace nibblecast {

// Writes FOLDER/streams-LAYER; durable on return.
SavedStreams save_streams(FileSystem& files, const std::filesystem::path& folder, uint64_t layer,
                          std::span<const std::byte> streams);

// Fills `streams`; false where the file is missing, unreadable, or does not give its checksum: `streams`
// then holds anything.
bool load_streams(FileSystem& files, const std::filesystem::path& folder, const SavedStreams& saved,
                  std::span<std::byte> streams);

// Removes all saved streams in the folder but `keep`.
void remove_streams(FileSystem& files, const std::filesystem::path& folder, const std::string& keep);

}  // namespace nibblecast
