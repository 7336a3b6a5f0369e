// The folders are the architecture: a folder includes only itself and the ones below it.
#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

#include "testing.h"

namespace nibblecast {
namespace {

const std::vector<std::string> kLowestFirst = {"base",        "checkpoint", "formats",  "ops", "model",
                                               "calibration", "plan",       "pipeline", "cli"};

size_t level(const std::string& folder) {
  return static_cast<size_t>(std::find(kLowestFirst.begin(), kLowestFirst.end(), folder) -
                             kLowestFirst.begin());
}

TEST(Layers, FoldersIncludeOnlyWhatIsBelow) {
  const std::filesystem::path src = std::filesystem::path(NIBBLECAST_SOURCE_DIR) / "src";
  const std::regex include(R"re(\s*#include "([a-z_]+)/.*)re");
  for (const auto& entry : std::filesystem::recursive_directory_iterator(src)) {
    const std::string extension = entry.path().extension().string();
    if (extension != ".h" && extension != ".cpp" && extension != ".cu" && extension != ".cuh") continue;
    const std::string folder = (*entry.path().lexically_relative(src).begin()).string();
    ASSERT_LT(level(folder), kLowestFirst.size()) << folder << " is not in docs/design.md";
    std::ifstream file(entry.path());
    std::string line;
    for (int number = 1; std::getline(file, line); ++number) {
      std::smatch match;
      if (!std::regex_match(line, match, include)) continue;
      EXPECT_LE(level(match[1]), level(folder)) << entry.path() << ":" << number << ": " << line;
    }
  }
}

}  // namespace
}  // namespace nibblecast
