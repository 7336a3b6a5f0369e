// How a damaged source is told, as a user sees it: perplexity, NaN, the Hub's checksums.
#include "base/digest.h"
#include "checkpoint/checkpoint.h"
#include "run_cli.h"

namespace nibblecast::testing {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class DamagedSource : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string source() const { return tiny_checkpoint().string(); }
  std::string texts() const { return write_texts(folder_.path()).string(); }

  // A copy whose tensor begins with these bytes.
  std::string damaged(const std::string& tensor, const std::string& bytes) const {
    std::filesystem::copy(source(), path("damaged"), std::filesystem::copy_options::recursive);
    const Checkpoint in = Checkpoint::open(path("damaged"), system_files());
    const Tensor& found = in.at(tensor);
    system_files()
        .open(in.folder() / in.shards()[found.shard].name, Access::kUpdateDirect)
        ->write(found.offset, std::as_bytes(std::span(bytes)));
    return path("damaged");
  }

  TemporaryFolder folder_;
};

TEST_F(DamagedSource, PerplexityIsInSummaryRecordAndCard) {
  const CliResult made = run_cli({"quantize", source(), path("out"), "--calib", texts(), "--quiet"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_TRUE(contains(made.out, "perplexity")) << made.out;
  EXPECT_TRUE(contains(made.out, "of the calibration rows")) << made.out;
  const Json record = Json::parse(read_file(path("out/nibblecast.json")));
  EXPECT_GT(record["perplexity"]["value"].get<double>(), 100);  // weights at random
  EXPECT_GT(record["perplexity"]["tokens"].get<uint64_t>(), 10u);
  EXPECT_TRUE(contains(read_file(path("out/README.md")), "perplexity on the calibration rows"));
  const Json calibrated =
      run_json({"calibrate", source(), "--calib", texts(), "-o", path("amax.safetensors"), "--quiet"});
  EXPECT_EQ(calibrated["perplexity"], record["perplexity"]);
  const Json from_amax =
      run_json({"quantize", source(), path("two"), "--amax", path("amax.safetensors"), "--quiet"});
  EXPECT_EQ(from_amax["perplexity"], record["perplexity"]);
}

TEST_F(DamagedSource, AboveMaxPerplexityThereIsNoCheckpoint) {
  const std::vector<std::string> command = {"quantize", source(), path("out"), "--calib", texts(), "--quiet"};
  std::vector<std::string> limited = command;
  limited.insert(limited.end(), {"--max-perplexity", "20"});
  const CliResult refused = run_cli(limited);
  EXPECT_EQ(refused.exit_code, 6);
  EXPECT_TRUE(contains(refused.err, "--max-perplexity")) << refused.err;
  EXPECT_FALSE(std::filesystem::exists(path("out/config.json")));
  EXPECT_EQ(run_cli(command).exit_code, 0);  // goes on
  EXPECT_TRUE(std::filesystem::exists(path("out/config.json")));

  const std::string amax = path("amax.safetensors");
  const CliResult calibrated =
      run_cli({"calibrate", source(), "--calib", texts(), "-o", amax, "--max-perplexity", "20", "--quiet"});
  EXPECT_EQ(calibrated.exit_code, 6) << calibrated.err;
  EXPECT_EQ(run_cli({"calibrate", source(), "--calib", texts(), "-o", amax, "--quiet"}).exit_code, 0);
  const CliResult by_file =
      run_cli({"quantize", source(), path("two"), "--amax", amax, "--max-perplexity", "20", "--quiet"});
  EXPECT_EQ(by_file.exit_code, 6) << by_file.err;
  EXPECT_FALSE(std::filesystem::exists(path("two")));
}

TEST_F(DamagedSource, NanIsRefusedByEveryCommandThatCopiesIt) {
  const std::string bad = damaged("head.weight", "\xc0\x7f");
  const CliResult made[] = {
      run_cli({"quantize", bad, path("out"), "--calib", texts(), "--quiet"}),
      run_cli({"calibrate", bad, "--calib", texts(), "-o", path("amax.safetensors"), "--quiet"}),
      run_cli({"dequantize", bad, path("wide"), "--quiet"})};
  for (const CliResult& result : made) {
    EXPECT_EQ(result.exit_code, 3) << result.err;
    EXPECT_TRUE(contains(result.err, "head.weight")) << result.err;
  }
  for (const char* folder : {"out", "wide"})
    EXPECT_FALSE(std::filesystem::exists(path(folder) + "/config.json"));
  const CliResult allowed =
      run_cli({"dequantize", bad, path("wide"), "--allow-nonfinite", "--quiet", "--json"});
  ASSERT_EQ(allowed.exit_code, 0) << allowed.err;
  EXPECT_EQ(Json::parse(allowed.out)["nonfinite"]["head.weight"]["count"], 1);
}

TEST_F(DamagedSource, VerifySourceKnowsTheHubsChecksums) {
  const auto snapshot = folder_.path() / "models--a--b/snapshots/1",
             blobs = folder_.path() / "models--a--b/blobs";
  std::filesystem::create_directories(snapshot);
  std::filesystem::create_directories(blobs);
  std::filesystem::path last;
  for (const auto& [name, content] : folder_contents(source())) {
    Digest digest(Digest::Kind::kSha256);
    digest.add(content);
    last = blobs / digest.hex();
    write_file(last, content);
    std::filesystem::create_directories((snapshot / name).parent_path());
    std::filesystem::create_symlink(last, snapshot / name);
  }
  const Json whole = run_json({"verify", "--source", snapshot.string(), "--quiet"});
  EXPECT_EQ(whole["ok"], true);
  EXPECT_EQ(whole["unchecked"].size(), 0u);
  std::string content = read_file(last);
  content[content.size() / 2] ^= 1;
  write_file(last, content);
  const CliResult damaged_now = run_cli({"verify", "--source", snapshot.string(), "--quiet"});
  EXPECT_EQ(damaged_now.exit_code, 6);
  EXPECT_TRUE(contains(damaged_now.out, "is damaged: the Hub has " + last.filename().string()))
      << damaged_now.out;
  const CliResult unknown = run_cli({"verify", "--source", source(), "--quiet"});
  EXPECT_EQ(unknown.exit_code, 6) << unknown.out;
  EXPECT_TRUE(contains(unknown.out, "nothing could be checked")) << unknown.out;
  EXPECT_EQ(run_cli({"verify", "--source", "--checksums", source()}).exit_code, 2);
}

TEST_F(DamagedSource, VerifySourceGoesOnToTheOutput) {
  ASSERT_EQ(run_cli({"calibrate", source(), "--calib", texts(), "-o", path("a"), "--quiet"}).exit_code, 0);
  ASSERT_EQ(run_cli({"quantize", source(), path("out"), "--amax", path("a"), "--quiet"}).exit_code, 0);
  const CliResult both = run_cli({"verify", "--source", source(), path("out"), "--quiet", "--json"});
  EXPECT_EQ(both.exit_code, 6);  // nothing is known of this source
  const Json report = Json::parse(both.out);
  EXPECT_EQ(report["problems"].size(), 0u);
  EXPECT_EQ(report["published"]["files"], 0);
}

}  // namespace
}  // namespace nibblecast::testing
