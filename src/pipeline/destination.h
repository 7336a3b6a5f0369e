// pipeline/destination.h - the folder a job writes into: who may, and how it becomes a checkpoint.
//
// While a job runs, DST holds `.nibblecast/job.json` (the job's identity) and files named *.partial. At the
// end the shards get their names, then everything else, the index and config.json last, and `.nibblecast`
// goes: a folder without config.json is not a checkpoint, and cannot be taken for one.
#pragma once

#include <filesystem>
#include <string>

#include "base/file.h"

namespace nibblecast {

// Makes DST ready for the job `identity`. What an interrupted run of the same job left is removed. Refuses
// (kRefused): a DST that holds anything else; SRC inside DST, DST inside SRC, or both the same.
void open_destination(FileSystem& files, const std::filesystem::path& source,
                      const std::filesystem::path& destination, const std::string& identity);
// Removes the job's marker; everything else must have its final name.
void close_destination(FileSystem& files, const std::filesystem::path& destination);

// The two checks of open_destination, without changing anything (for `plan`).
void check_destination(FileSystem& files, const std::filesystem::path& source,
                       const std::filesystem::path& destination, const std::string& identity);

}  // namespace nibblecast
