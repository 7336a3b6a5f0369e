// cli/job_folder.h - where the job is that a path on the command line means.
#pragma once

#include <filesystem>

#include "base/file.h"

namespace nibblecast {

// The job's folder: of an output, or of an amax file that `calibrate` is making.
std::filesystem::path job_folder(FileSystem& files, const std::filesystem::path& path);
// Whether `path` is a finished output.
bool is_finished(FileSystem& files, const std::filesystem::path& path);

}  // namespace nibblecast
