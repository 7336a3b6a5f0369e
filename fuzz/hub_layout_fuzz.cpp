// Any bytes as what --calib names and the files that lie there, in folders as the Hub's clients make them:
// refused with Error, or sets of files that exist. The first line is --calib's value; each other one a path
// below /hub and, behind a tab, what the file holds.
#include <cstdint>
#include <filesystem>
#include <sstream>
#include <string>
#include <string_view>

#include "calibration/calibration_set.h"
#include "faults/memory_files.h"
#include "fuzzing.h"

namespace nibblecast {
namespace {

namespace fs = std::filesystem;

using fuzzing::require;

// Below /hub, whatever the line says.
fs::path place_of(const std::string& name) {
  fs::path place = "/hub";
  for (const fs::path& part : fs::path(name)) {
    if (part != "." && part != ".." && part != "/" && !part.empty()) place /= part;
  }
  return place;
}

void make_file(FileSystem& files, const std::string& line) {
  const size_t tab = std::min(line.find('\t'), line.size());
  fuzzing::put_file(files, place_of(line.substr(0, tab)), line.substr(std::min(tab + 1, line.size())));
}

void try_layout(std::string_view text) {
  testing::MemoryFiles files;
  files.create_folders("/hub");
  std::istringstream lines{std::string(text)};
  std::string calib, line;
  std::getline(lines, calib);
  while (std::getline(lines, line)) make_file(files, line);
  for (const CalibrationSet& set : find_calibration_sets(files, calib, 0, "/hub")) {
    require(set.count > 0 && !set.files.empty() && !set.name.empty());
    for (const std::string& file : set.files) require(file == "-" || files.status(file).has_value());
  }
}

}  // namespace
}  // namespace nibblecast

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace nibblecast;
  fuzzing::refused_or([&] { try_layout(fuzzing::text_of(bytes, size)); });
  return 0;
}
