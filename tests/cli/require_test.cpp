// `--require` and the end of `--strict`: gates for scripts.
#include "calibration/amax_file.h"
#include "run_cli.h"

namespace nibblecast::testing {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class Require : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string source() const { return tiny_checkpoint().string(); }
  // Three rows of 400 ids, of so many different ones.
  std::string rows(int different) const {
    const std::string file = path(std::to_string(different) + "_ids.jsonl");
    std::string lines;
    for (int row = 0; row < 3; ++row) {
      Json ids = Json::array();
      for (int at = 0; at < 400; ++at) ids.push_back((row * 131 + at * 7) % different + 5);
      lines += Json{{"input_ids", std::move(ids)}}.dump() + "\n";
    }
    write_file(file, lines);
    return file + ":3";
  }
  std::string texts() const { return rows(200); }
  // Layers that route by the id leave experts without tokens.
  std::string few_ids() const { return rows(1); }
  CliResult quantize(const std::string& out, const std::vector<std::string>& options) {
    std::vector<std::string> command = {"quantize", source(), path(out), "--quiet"};
    command.insert(command.end(), options.begin(), options.end());
    return run_cli(command);
  }

  TemporaryFolder folder_;
};

TEST_F(Require, WhatHoldsIsExitCodeZero) {
  const CliResult result =
      quantize("out", {"--calib", texts(), "--require", "lossless,window,bounded,rows,model"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

TEST_F(Require, ExpertsWithoutTokensEndInSixAndTheOutputStays) {
  const std::vector<std::string> command = {"--calib", few_ids(), "--require", "covered"};
  for (int run = 0; run < 2; ++run) {  // the second finds a finished output
    const CliResult result = quantize("out", command);
    EXPECT_EQ(result.exit_code, 6) << result.err;
    EXPECT_TRUE(contains(result.err, "nibblecast: error: 'covered' does not hold: ")) << result.err;
    EXPECT_TRUE(contains(result.err, "saw no token")) << result.err;
    EXPECT_TRUE(std::filesystem::exists(path("out") + "/config.json"));
  }
  EXPECT_EQ(quantize("out", {"--calib", few_ids()}).exit_code, 0);
  const CliResult strict = quantize("strict", {"--calib", few_ids(), "--strict"});
  EXPECT_EQ(strict.exit_code, 6) << strict.err;
  EXPECT_TRUE(std::filesystem::exists(path("strict") + "/config.json"));
}

TEST_F(Require, WhatIsKnownBeforeIsRefusedBefore) {
  const CliResult method =
      quantize("out", {"--calib", texts(), "--weight-method", "max", "--require", "lossless"});
  EXPECT_EQ(method.exit_code, 5) << method.err;
  EXPECT_TRUE(contains(method.err, "'lossless' does not hold: ")) << method.err;
  EXPECT_EQ(quantize("out", {"--calib", path("200_ids.jsonl"), "--require", "rows"}).exit_code,
            5);  // 3 of 128
  ASSERT_EQ(run_cli({"calibrate", source(), "--calib", few_ids(), "-o", path("amax"), "--quiet"}).exit_code,
            0);
  const CliResult amax = quantize("out", {"--amax", path("amax"), "--require", "covered"});
  EXPECT_EQ(amax.exit_code, 5) << amax.err;
  EXPECT_TRUE(contains(amax.err, "'covered' does not hold: ")) << amax.err;
  EXPECT_FALSE(std::filesystem::exists(path("out")));
}

TEST_F(Require, CalibrateAnswersToo) {
  const std::vector<std::string> command = {"calibrate",  source(),    "--calib",         few_ids(), "-o",
                                            path("amax"), "--require", "covered,bounded", "--quiet"};
  EXPECT_EQ(run_cli(command).exit_code, 6);
  const CliResult again = run_cli(command);
  EXPECT_EQ(again.exit_code, 6) << again.err;
  EXPECT_TRUE(contains(again.out, "nothing to do")) << again.out;
}

TEST_F(Require, UnknownConditionsAreUsageErrors) {
  const CliResult result = quantize("out", {"--calib", texts(), "--require", "lossless,fast"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_TRUE(contains(result.err,
                       "unknown condition 'fast' (expected lossless, window, covered, bounded, rows, "
                       "model)"))
      << result.err;
  EXPECT_EQ(run_cli({"calibrate", source(), "--calib", texts(), "-o", path("amax"), "--require", "lossless"})
                .exit_code,
            2);
}

}  // namespace
}  // namespace nibblecast::testing
