// The folders are the architecture: a folder includes only itself and the ones below it.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "testing.h"

namespace nibblecast {
namespace {

const std::vector<std::string> kLowestFirst = {"base",    "remote",   "checkpoint", "formats",
                                               "weights", "ops",      "model",      "calibration",
                                               "plan",    "pipeline", "cli"};

size_t level(const std::string& folder) {
  return static_cast<size_t>(std::find(kLowestFirst.begin(), kLowestFirst.end(), folder) -
                             kLowestFirst.begin());
}

// "plan" of `#include "plan/plan.h"`.
std::optional<std::string> included_folder(std::string_view line) {
  constexpr std::string_view kInclude = "#include \"";
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
  if (!line.starts_with(kInclude)) return std::nullopt;
  line.remove_prefix(kInclude.size());
  const size_t slash = line.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  return std::string(line.substr(0, slash));
}

TEST(Layers, FoldersIncludeOnlyWhatIsBelow) {
  const std::filesystem::path src = std::filesystem::path(NIBBLECAST_SOURCE_DIR) / "src";
  for (const auto& entry : std::filesystem::recursive_directory_iterator(src)) {
    const std::string extension = entry.path().extension().string();
    if (extension != ".h" && extension != ".cpp" && extension != ".cu" && extension != ".cuh") continue;
    const std::string folder = (*entry.path().lexically_relative(src).begin()).string();
    ASSERT_LT(level(folder), kLowestFirst.size()) << folder << " is not in docs/design.md";
    std::ifstream file(entry.path());
    std::string line;
    for (int number = 1; std::getline(file, line); ++number) {
      const std::optional<std::string> included = included_folder(line);
      if (!included) continue;
      EXPECT_LE(level(*included), level(folder)) << entry.path() << ":" << number << ": " << line;
    }
  }
}

// A family is a value (model/family.h): what it is made of is nobody's business outside of src/model.
TEST(Layers, NobodyOutsideIncludesAFamily) {
  const std::filesystem::path src = std::filesystem::path(NIBBLECAST_SOURCE_DIR) / "src";
  for (const auto& entry : std::filesystem::recursive_directory_iterator(src)) {
    if (!entry.is_regular_file() || (*entry.path().lexically_relative(src).begin()) == "model") continue;
    std::ifstream file(entry.path());
    std::string line;
    for (int number = 1; std::getline(file, line); ++number)
      EXPECT_EQ(line.find("#include \"model/families/"), std::string::npos) << entry.path() << ":" << number;
  }
}

}  // namespace
}  // namespace nibblecast
