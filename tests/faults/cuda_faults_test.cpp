// A GPU that fails in the middle of a job: the program says so, nothing wrong is left, and the same command
// goes on.
#include <algorithm>
#include <cstdlib>

#include "cli/run_cli.h"
#include "cuda_testing.h"

namespace nibblecast::testing {
namespace {

constexpr int kOutOfMemory = 2, kUnavailable = 46, kEccError = 214, kLaunchFailed = 719, kUnknown = 999;

class CudaFaults : public ::testing::Test {
 protected:
  CudaFaults() {
    write_texts(folder_.path());
    programs_see_gpus = true;
  }
  ~CudaFaults() override {
    programs_see_gpus = false;
    for (const char* name : {"LD_PRELOAD", "NIBBLECAST_FAILING_CUDA", "NIBBLECAST_COUNTED_CUDA"})
      ::unsetenv(name);
  }

  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }

  // Methods that make weights on the device too.
  CliResult quantize(const std::string& to) const {
    return run_cli({"quantize",
                    tiny_checkpoint().string(),
                    path(to),
                    "--calib",
                    path("texts.jsonl"),
                    "--calib-size",
                    "3",
                    "--calib-rows",
                    "docs",
                    "--recipe",
                    "nvfp4",
                    "--engine",
                    "none",
                    "--weight-method",
                    "mse",
                    "--device",
                    "cuda",
                    "--checkpoint-every",
                    "1",
                    "--threads",
                    "2",
                    "--quiet"});
  }

  CliResult quantize_failing(const std::string& to, unsigned long call, int code) const {
    ::setenv("LD_PRELOAD", NIBBLECAST_FAILING_CUDA_LIBRARY, 1);
    ::setenv("NIBBLECAST_FAILING_CUDA", (std::to_string(call) + " " + std::to_string(code)).c_str(), 1);
    CliResult result = quantize(to);
    ::unsetenv("LD_PRELOAD");
    return result;
  }

  unsigned long count_calls() const {
    ::setenv("NIBBLECAST_COUNTED_CUDA", path("calls").c_str(), 1);
    const CliResult result = quantize_failing("counted", ~0ul, 0);
    ::unsetenv("NIBBLECAST_COUNTED_CUDA");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return std::strtoul(read_file(path("calls")).c_str(), nullptr, 10);
  }

  // What does not hold times.
  std::map<std::string, std::string> output(const std::string& name) const {
    auto files = folder_contents(path(name));
    for (const char* timed : {"nibblecast.json", "report.json", "report.html"}) files.erase(timed);
    return files;
  }

  TemporaryFolder folder_;
};

TEST_F(CudaFaults, EndWithAMessageAndAreGoneOnFrom) {
  SKIP_WITHOUT_CUDA();
  const unsigned long calls = count_calls();
  ASSERT_GT(calls, 100u) << "the faults did not get in";
  const auto expected = output("counted");
  int attempt = 0;
  size_t resumed = 0;
  for (const int code : {kLaunchFailed, kOutOfMemory, kUnavailable, kEccError, kUnknown}) {
    for (const unsigned long part : {1ul, 20ul, 45ul, 70ul, 95ul}) {
      const std::string name = "job" + std::to_string(attempt++);
      const unsigned long call = std::max(1ul, calls * part / 100) + static_cast<unsigned long>(code % 7);
      SCOPED_TRACE("call " + std::to_string(call) + " of " + std::to_string(calls) + " fails with " +
                   std::to_string(code));
      const CliResult failed = quantize_failing(name, call, code);
      EXPECT_EQ(failed.exit_code, code == kOutOfMemory ? 5 : 10) << failed.err;
      EXPECT_NE(failed.err.find("GPU"), std::string::npos) << failed.err;
      EXPECT_FALSE(std::filesystem::exists(path(name) + "/config.json"));
      resumed += std::filesystem::exists(path(name) + "/.nibblecast/journal");
      const CliResult next = quantize(name);
      ASSERT_EQ(next.exit_code, 0) << next.err;
      EXPECT_TRUE(output(name) == expected);
      std::filesystem::remove_all(path(name));
    }
  }
  EXPECT_GE(resumed, 10u);
}

}  // namespace
}  // namespace nibblecast::testing
