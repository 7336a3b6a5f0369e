// `dequantize` and `convert` as their user sees them.
#include "run_cli.h"

namespace nibblecast::testing {
namespace {

class Remake : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string source() const { return tiny_checkpoint().string(); }

 private:
  TemporaryFolder folder_;
};

TEST_F(Remake, DequantizeSaysWhatItMadeAndIsDone) {
  const CliResult made = run_cli({"dequantize", source(), path("out"), "--quiet"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_EQ(made.err, "");
  EXPECT_NE(made.out.find("nibblecast verify " + source() + " " + path("out")), std::string::npos)
      << made.out;
  EXPECT_EQ(run_cli({"verify", "--checksums", path("out"), "--quiet"}).exit_code, 0);
  const CliResult again = run_cli({"dequantize", source(), path("out"), "--quiet"});
  EXPECT_EQ(again.exit_code, 0);
  EXPECT_NE(again.out.find("nothing to do"), std::string::npos) << again.out;
  // Another job's output.
  EXPECT_EQ(run_cli({"dequantize", source(), path("out"), "--dtype", "float32", "--quiet"}).exit_code, 5);
  const Json document = run_json({"dequantize", source(), path("wide"), "--dtype", "float32", "--quiet"});
  EXPECT_EQ(document["command"].get<std::string>(), "dequantize");
  EXPECT_TRUE(document["inexact"].empty());
}

TEST_F(Remake, TransformersNamesAreAnotherJob) {
  const Json made = run_json({"dequantize", source(), path("out"), "--names", "transformers", "--quiet"});
  EXPECT_EQ(made["options"]["made"].get<std::string>(), "dequantize bfloat16 transformers names");
  EXPECT_EQ(run_cli({"verify", source(), path("out"), "--quiet"}).exit_code, 0);
  EXPECT_EQ(run_cli({"verify", "--checksums", path("out"), "--quiet"}).exit_code, 0);
  EXPECT_EQ(run_cli({"dequantize", source(), path("out"), "--quiet"}).exit_code, 5);
}

TEST_F(Remake, BytesDependNeitherOnThreadsNorOnMemory) {
  run_json({"dequantize", source(), path("one"), "--threads", "1", "--memory", "200M", "--quiet"});
  run_json({"dequantize", source(), path("many"), "--threads", "5", "--memory", "1G", "--quiet"});
  auto one = folder_contents(path("one")), many = folder_contents(path("many"));
  one.erase("nibblecast.json"), many.erase("nibblecast.json");
  EXPECT_TRUE(one == many);
}

TEST_F(Remake, PreflightRefusesBeforeAnythingIsWritten) {
  const CliResult small = run_cli({"dequantize", source(), path("out"), "--memory", "1M"});
  EXPECT_EQ(small.exit_code, 5);
  EXPECT_NE(small.err.find("of memory"), std::string::npos) << small.err;
  EXPECT_EQ(run_cli({"dequantize", source(), source() + "/inside"}).exit_code, 5);
  EXPECT_FALSE(std::filesystem::exists(path("out")));
}

TEST_F(Remake, QuantizeAndConvertComeBackToTheRelease) {
  const std::string texts = write_texts(path("")).string();
  run_json({"quantize", source(), path("nvfp4"), "--calib", texts, "--quiet"});
  run_json({"convert", path("nvfp4"), path("back"), "--to", "mxfp4", "--quiet"});
  const auto release = folder_contents(source()), back = folder_contents(path("back"));
  for (const auto& [name, content] : release) {
    if (name == "README.md") continue;
    ASSERT_TRUE(back.contains(name)) << name;
    EXPECT_TRUE(content == back.at(name)) << name;
  }
  EXPECT_TRUE(release.at("README.md") == back.at("README.source.md"));
  const CliResult plain = run_cli({"convert", source(), path("no"), "--to", "mxfp4"});
  EXPECT_EQ(plain.exit_code, 3);
  EXPECT_NE(plain.err.find("holds no NVFP4 weights"), std::string::npos) << plain.err;
}

TEST_F(Remake, AnotherDialectHasItsCard) {
  const std::string small = path("small");
  ASSERT_EQ(run_cli({"synth", "qwen3-tiny", small, "--quiet"}).exit_code, 0);
  ASSERT_EQ(run_cli({"quantize", small, path("nvfp4"), "--input-scale", "1.0", "--quiet"}).exit_code, 0);
  ASSERT_EQ(run_cli({"convert", path("nvfp4"), path("packed"), "--format", "compressed-tensors", "--quiet"})
                .exit_code,
            0);
  const std::string card = read_file(path("packed") + "/README.md");
  for (const char* part :
       {"- nvfp4\n", "- Licence: the source's, whose folder names none.",
        "It is written in llm-compressor's form (compressed-tensors)",
        "    vllm serve PATH --tensor-parallel-size N\n", "    trtllm-serve PATH --tp_size N\n"})
    EXPECT_NE(card.find(part), std::string::npos) << part << "\n" << card;
}

TEST_F(Remake, UsageErrors) {
  const auto error = [](const std::vector<std::string>& arguments) {
    const CliResult result = run_cli(arguments);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    return result.err;
  };
  EXPECT_EQ(error({"dequantize", "a", "b", "--dtype", "half"}),
            "nibblecast: error: --dtype: unknown value 'half' (expected bfloat16 or float32); see nibblecast "
            "dequantize --help\n");
  EXPECT_EQ(error({"dequantize", "a", "b", "--names", "hub"}),
            "nibblecast: error: --names: unknown value 'hub' (expected official or transformers); see "
            "nibblecast dequantize --help\n");
  EXPECT_EQ(error({"convert", "a", "b", "--to", "fp8"}),
            "nibblecast: error: --to: unknown value 'fp8' (expected mxfp4); see nibblecast convert --help\n");
  EXPECT_EQ(error({"convert", "a", "b"}),
            "nibblecast: error: one of --to and --format is required; see nibblecast convert --help\n");
  EXPECT_EQ(error({"convert", "a", "b", "--to", "mxfp4", "--format", "modelopt"}),
            "nibblecast: error: one of --to and --format is required; see nibblecast convert --help\n");
  EXPECT_EQ(
      error({"convert", "a", "b", "--format", "gguf"}),
      "nibblecast: error: --format: unknown value 'gguf' (expected modelopt or compressed-tensors); see "
      "nibblecast convert --help\n");
}

}  // namespace
}  // namespace nibblecast::testing
