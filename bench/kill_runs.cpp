// Kills a job many times and says where (tests/faults/kill_runs.h). Exit code 1 if anything was wrong.
// usage: kill_runs FOLDER [KILLS [SEED]]     FOLDER: on the disk to try it on; made, must be empty
#include "faults/kill_runs.h"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>

int main(int argc, char** argv) try {
  if (argc < 2) {
    std::fputs("usage: kill_runs FOLDER [KILLS [SEED]]\n", stderr);
    return 2;
  }
  std::filesystem::create_directories(argv[1]);
  nibblecast::testing::KillOptions options;
  options.kills = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1000;
  options.seed = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 0;
  const nibblecast::testing::KillReport report = nibblecast::testing::kill_runs(argv[1], options);
  std::fputs(report.text().c_str(), stdout);
  return report.problems.empty() ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "kill_runs: %s\n", error.what());
  return 1;
}
