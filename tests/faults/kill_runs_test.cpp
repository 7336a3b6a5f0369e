// A whole job, killed by SIGKILL. bench/kill_runs does it a thousand times.
#include "faults/kill_runs.h"

#include <cstdio>

#include "testing.h"

namespace nibblecast::testing {
namespace {

class KillRuns : public ::testing::TestWithParam<SmallModel> {};

TEST_P(KillRuns, EveryJobGoesOnToTheSameBytes) {
  const TemporaryFolder folder;
  const KillReport report = kill_runs(folder.path(), {.model = GetParam(), .kills = 30, .seed = 1});
  std::fputs(report.text().c_str(), stdout);
  EXPECT_EQ(report.kills, 30u);
  EXPECT_GT(report.of_resumed_runs, 0u);
  EXPECT_TRUE(report.problems.empty());
}

TEST_P(KillRuns, ShardsThatAreGoneCutOrReplacedAfterTheKillAreMadeAgain) {
  const TemporaryFolder folder;
  const KillReport report =
      kill_runs(folder.path(), {.model = GetParam(), .kills = 30, .seed = 2, .harm = 0.8});
  std::fputs(report.text().c_str(), stdout);
  EXPECT_GT(report.harmed_shards, 0u);
  EXPECT_TRUE(report.problems.empty());
}

INSTANTIATE_TEST_SUITE_P(Models, KillRuns, ::testing::ValuesIn(small_models()), model_name);

}  // namespace
}  // namespace nibblecast::testing
