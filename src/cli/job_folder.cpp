#include "cli/job_folder.h"

#include "cli/job_options.h"
#include "pipeline/destination.h"

namespace nibblecast {

std::filesystem::path job_folder(FileSystem& files, const std::filesystem::path& path) {
  const std::filesystem::path calibration = calibration_job_folder(path);
  return files.status(calibration / "job.json") ? calibration : path / kJobFolder;
}

bool is_finished(FileSystem& files, const std::filesystem::path& path) {
  return files.status(path / "config.json") && files.status(path / "nibblecast.json");
}

}  // namespace nibblecast
