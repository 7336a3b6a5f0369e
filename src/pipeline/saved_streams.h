// pipeline/saved_streams.h - the residual streams between two layers, on disk.
#pragma once

#include <cstddef>
#include <filesystem>

#include "base/file.h"
#include "model/forward_pass.h"
#include "pipeline/job.h"

namespace nibblecast {

// Writes FOLDER/streams-LAYER from the streams of `pass`; durable on return.
SavedStreams save_streams(FileSystem& files, const std::filesystem::path& folder, uint64_t layer,
                          const ForwardPass& pass);

// Into `pass`; false where the file is missing, unreadable, or does not give its checksum: its streams then
// hold anything.
bool load_streams(FileSystem& files, const std::filesystem::path& folder, const SavedStreams& saved,
                  ForwardPass& pass);

// Removes all saved streams in the folder but `keep`.
void remove_streams(FileSystem& files, const std::filesystem::path& folder, const std::string& keep);

}  // namespace nibblecast
