// Where an amax file may be written, and which one may be read.
#include <sys/stat.h>
#include <unistd.h>

#include "calibration/amax_file.h"
#include "run_cli.h"

namespace nibblecast::testing {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class AmaxOutput : public ::testing::Test {
 protected:
  AmaxOutput() { write_texts(folder_.path()); }
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string source() const { return tiny_checkpoint().string(); }
  std::string texts() const { return path("texts.jsonl"); }

  // `calibrate -o output` and `quantize --save-amax output` fail, and no file changes.
  void expect_refused(const std::string& output, const std::string& part, int exit_code = 5) {
    SCOPED_TRACE(output);
    const auto before = folder_contents(folder_.path());
    for (std::vector<std::string> command : {std::vector<std::string>{"calibrate", source(), "-o", output},
                                             {"quantize", source(), path("out"), "--save-amax", output}}) {
      for (const char* word : {"--calib", texts_given_.c_str(), "--quiet"}) command.emplace_back(word);
      const CliResult result = run_cli(command);
      EXPECT_EQ(result.exit_code, exit_code) << result.err;
      EXPECT_TRUE(contains(result.err, part)) << result.err;
    }
    EXPECT_TRUE(folder_contents(folder_.path()) == before);
  }
  CliResult calibrate(const std::string& calib, const std::string& output,
                      const std::vector<std::string>& options = {}) {
    std::vector<std::string> command = {"calibrate", source(), "--calib", calib, "-o", output, "--quiet"};
    command.insert(command.end(), options.begin(), options.end());
    return run_cli(command);
  }

  TemporaryFolder folder_;
  std::string texts_given_ = texts();
};

TEST_F(AmaxOutput, NoFileIsOverwrittenThatIsNotThisJobs) {
  expect_refused(texts(), "is an input of this command");
  std::filesystem::create_symlink(texts(), path("link"));
  expect_refused(path("link"), "is an input of this command");
  std::filesystem::create_hard_link(texts(), path("same"));
  expect_refused(path("same"), "is an input of this command");
  write_file(path("thesis.tex"), "years of work");
  expect_refused(path("thesis.tex"), "is no amax file of this calibration");
  write_file(path("empty"), "");
  expect_refused(path("empty"), "is no amax file of this calibration");
  expect_refused("/dev/null", "is no amax file of this calibration");
  // What is written first.
  write_file(path("a.partial"), read_file(texts()));
  texts_given_ = path("a.partial");
  expect_refused(path("a"), "is an input of this command");
}

// From texts to weights that second moments decided, and what is refused on the way.
TEST_F(AmaxOutput, WmseNeedsAFileWithSecondMoments) {
  const std::vector<std::string> wmse = {"--recipe", "nvfp4", "--weight-method", "wmse",
                                         "--engine", "none",  "--quiet"};
  const auto quantize = [&](std::vector<std::string> from) {
    std::vector<std::string> command = {"quantize", source(), path("out")};
    command.insert(command.end(), from.begin(), from.end());
    command.insert(command.end(), wmse.begin(), wmse.end());
    return run_cli(command);
  };
  const CliResult same_run = quantize({"--calib", texts()});
  EXPECT_EQ(same_run.exit_code, 2) << same_run.err;
  EXPECT_TRUE(contains(same_run.err, "--second-moments -o FILE")) << same_run.err;
  ASSERT_EQ(calibrate(texts(), path("plain")).exit_code, 0);
  const CliResult without = quantize({"--amax", path("plain")});
  EXPECT_EQ(without.exit_code, 3) << without.err;
  EXPECT_TRUE(contains(without.err, "holds no layers.0.attn.in.second_moment")) << without.err;
  EXPECT_EQ(calibrate(texts(), path("plain"), {"--second-moments"}).exit_code, 5);
  ASSERT_EQ(calibrate(texts(), path("moments"), {"--second-moments"}).exit_code, 0);
  const CliResult other = calibrate(texts(), path("moments"));
  EXPECT_EQ(other.exit_code, 5);
  EXPECT_TRUE(contains(other.err, "holds second moments too")) << other.err;
  const CliResult made = quantize({"--amax", path("moments")});
  EXPECT_EQ(made.exit_code, 0) << made.err;
  const CliResult verified = run_cli({"verify", source(), path("out"), "--engine", "none", "--quiet"});
  EXPECT_EQ(verified.exit_code, 0) << verified.err << verified.out;
  const CliResult explained = run_cli(
      {"plan", source(), "--recipe", "nvfp4", "--weight-method", "wmse", "--explain", "layers.0.attn.wq_a"});
  EXPECT_TRUE(contains(explained.out, "wmse")) << explained.out << explained.err;
}

TEST_F(AmaxOutput, AFinishedOneOfTheSameCalibrationIsDone) {
  ASSERT_EQ(calibrate(texts(), path("amax")).exit_code, 0);
  const std::string made = read_file(path("amax"));
  const CliResult again = calibrate(texts(), path("amax"));
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_TRUE(contains(again.out, "nothing to do")) << again.out;
  const CliResult saved = run_cli(
      {"quantize", source(), path("out"), "--calib", texts(), "--save-amax", path("amax"), "--quiet"});
  EXPECT_EQ(saved.exit_code, 0) << saved.err;
  EXPECT_TRUE(read_file(path("amax")) == made);
  // Other rows, another arithmetic, a file that does not say.
  const CliResult rows = calibrate(texts() + ":3", path("amax"));
  EXPECT_EQ(rows.exit_code, 5);
  EXPECT_TRUE(contains(rows.err, "its calibration rows differ")) << rows.err;
  const CliResult dtype = calibrate(texts(), path("amax"), {"--compute-dtype", "float32"});
  EXPECT_EQ(dtype.exit_code, 5);
  EXPECT_TRUE(contains(dtype.err, "its --compute-dtype differ")) << dtype.err;
  EXPECT_TRUE(read_file(path("amax")) == made);
  AmaxFile nameless = read_amax(system_files(), path("amax"));
  nameless.metadata.clear();
  write_amax(system_files(), path("nameless"), nameless);
  expect_refused(path("nameless"), "its model differ");
}

TEST_F(AmaxOutput, AFolderThatCannotBeWrittenToIsFoundBeforeTheRun) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  std::filesystem::create_directory(path("locked"));
  ::chmod(path("locked").c_str(), 0555);
  expect_refused(path("locked") + "/amax", "its folder cannot be written to");
  ::chmod(path("locked").c_str(), 0755);
}

TEST_F(AmaxOutput, EmptyNamesAreUsageErrors) {
  for (const char* nothing : {"", ",", " ", " , "}) {
    EXPECT_EQ(calibrate(nothing, path("amax")).exit_code, 2) << nothing;
    EXPECT_EQ(run_cli({"quantize", source(), path("out"), "--calib", nothing, "--recipe", "w4a16_nvfp4",
                       "--engine", "none"})
                  .exit_code,
              2)
        << nothing;
  }
  EXPECT_EQ(calibrate(texts(), "").exit_code, 2);
  EXPECT_EQ(run_cli({"quantize", source(), path("out"), "--calib", texts(), "--save-amax", ""}).exit_code, 2);
  EXPECT_EQ(run_cli({"quantize", source(), path("out"), "--amax", ""}).exit_code, 2);
  EXPECT_FALSE(std::filesystem::exists(path("amax")));
}

TEST_F(AmaxOutput, AFileThatDoesNotFitStopsEveryCommandBeforeTheRun) {
  ASSERT_EQ(calibrate(texts(), path("amax")).exit_code, 0);
  AmaxFile cut = read_amax(system_files(), path("amax"));
  cut.layers.erase(cut.layers.begin() + 2);
  write_amax(system_files(), path("cut"), cut);
  for (const std::vector<std::string>& options : {std::vector<std::string>{"plan", source(), path("out")},
                                                  {"quantize", source(), path("out")},
                                                  {"quantize", source(), path("out"), "--validate-only"}}) {
    std::vector<std::string> command = options;
    for (const std::string& word : {std::string("--amax"), path("cut"), std::string("--quiet")})
      command.push_back(word);
    const CliResult result = run_cli(command);
    EXPECT_EQ(result.exit_code, 3) << result.err;
    EXPECT_TRUE(contains(result.err, "holds no amax of layer 2")) << result.err;
    EXPECT_FALSE(std::filesystem::exists(path("out")));
  }
}

TEST_F(AmaxOutput, AnotherModelsIsAWarningAndARefusalWhenStrict) {
  ASSERT_EQ(run_cli({"synth", "v4-tiny", path("other"), "--seed", "7", "--quiet"}).exit_code, 0);
  ASSERT_EQ(calibrate(texts(), path("amax")).exit_code, 0);
  std::vector<std::string> command = {"quantize", path("other"), path("out"),
                                      "--amax",   path("amax"),  "--quiet"};
  command.emplace_back("--strict");
  const CliResult strict = run_cli(command);
  EXPECT_EQ(strict.exit_code, 5);
  EXPECT_TRUE(contains(strict.err, "other weights with the same headers")) << strict.err;
  EXPECT_FALSE(std::filesystem::exists(path("out")));
  command.back() = "--require=model";
  EXPECT_EQ(run_cli(command).exit_code, 5);
  command.pop_back();
  const CliResult warned = run_cli(command);
  EXPECT_EQ(warned.exit_code, 0) << warned.err;
  EXPECT_TRUE(contains(warned.err, "nibblecast: warning: ")) << warned.err;
  EXPECT_TRUE(contains(warned.err, "other weights with the same headers")) << warned.err;
}

TEST_F(AmaxOutput, InspectComparesLayersWithTheirNeighbours) {
  AmaxFile file;
  for (uint64_t layer = 0; layer < 8; ++layer) {
    const float usual = layer == 3 || layer == 4 ? 1e-4f : 2.0f + static_cast<float>(layer);
    file.layers.push_back(
        {.layer = layer,
         .taps = {{"experts.in", std::vector<float>(8, usual)}, {"experts.mid", std::vector<float>(8, 3)}},
         .tokens = std::vector<int64_t>(8, 5)});
  }
  file.layers[6].taps["experts.mid"][1] = 0;
  write_amax(system_files(), path("shown"), file);
  const Json json = run_json({"inspect", path("shown")});
  ASSERT_EQ(json["outliers"].size(), 2u);
  for (size_t outlier = 0; outlier < 2; ++outlier) {
    EXPECT_EQ(json["outliers"][outlier]["module"], Json("all experts experts.in"));
    EXPECT_GE(json["outliers"][outlier]["layer"], 3);
    EXPECT_LE(json["outliers"][outlier]["layer"], 4);
  }
  EXPECT_EQ(json["layers"][6]["experts_that_contradict"], Json::array({1}));
}

}  // namespace
}  // namespace nibblecast::testing
