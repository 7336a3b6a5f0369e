// Kills a job many times and says where (tests/faults/kill_runs.h). Exit code 1 if anything was wrong.
// usage: kill_runs FOLDER [KILLS [SEED [MODEL [HARM]]]]
//   FOLDER: on the disk to try it on; made, must be empty. MODEL: v4, dense, moe. HARM: how likely a shard is
//   removed, cut or replaced after a kill.
#include "faults/kill_runs.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <string>

namespace nibblecast::testing {
namespace {

int run(int argc, char** argv) {
  const std::string name = argc > 4 ? argv[4] : "v4";
  const std::vector<SmallModel> models = small_models();
  const auto model = std::ranges::find(models, name, &SmallModel::name);
  if (argc < 2 || model == models.end()) {
    std::fputs("usage: kill_runs FOLDER [KILLS [SEED [v4|dense|moe [HARM]]]]\n", stderr);
    return 2;
  }
  std::filesystem::create_directories(argv[1]);
  KillOptions options{.model = *model};
  options.kills = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1000;
  options.seed = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 0;
  options.harm = argc > 5 ? std::strtod(argv[5], nullptr) : 0;
  const KillReport report = kill_runs(argv[1], options);
  std::fputs(report.text().c_str(), stdout);
  return report.problems.empty() ? 0 : 1;
}

}  // namespace
}  // namespace nibblecast::testing

int main(int argc, char** argv) try {
  return nibblecast::testing::run(argc, argv);
} catch (const std::exception& error) {
  std::fprintf(stderr, "kill_runs: %s\n", error.what());
  return 1;
}
