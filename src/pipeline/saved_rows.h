// pipeline/saved_rows.h - a job's calibration rows, so that it can be finished without the texts.
//
// FOLDER/rows: for each row the number of its tokens (uint64) and their ids (int32), little-endian.
#pragma once

#include <filesystem>
#include <optional>

#include "base/file.h"
#include "calibration/rows.h"

namespace nibblecast {

// Writes FOLDER/rows if it is not there; durable on return.
void save_rows(FileSystem& files, const std::filesystem::path& folder, const CalibrationRows& rows);

// nullopt where there are none. Whether they are the job's is for its identity to say: any file that is cut
// at the end of a row can be read. Error kBadInput for another one.
std::optional<CalibrationRows> load_rows(FileSystem& files, const std::filesystem::path& folder);

}  // namespace nibblecast
