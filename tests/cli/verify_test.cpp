// `verify` as its user sees it: which engines, what is no output, what is missing beside the weights.
#include "run_cli.h"

namespace nibblecast::testing {
namespace {

namespace fs = std::filesystem;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class VerifyCommand : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string source() const { return tiny_checkpoint().string(); }
  // Needs no activations.
  void quantize(const std::string& out) const {
    const CliResult made =
        run_cli({"quantize", source(), out, "--recipe", "w4a16_nvfp4", "--engine", "none", "--quiet"});
    ASSERT_EQ(made.exit_code, 0) << made.err;
    EXPECT_FALSE(contains(made.out, "coverage")) << made.out;  // nothing was calibrated
    next_ = made.out.substr(made.out.find("nibblecast verify"));
  }
  CliResult verify(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), "verify");
    arguments.emplace_back("--quiet");
    return run_cli(arguments);
  }

  TemporaryFolder folder_;
  mutable std::string next_;
};

TEST_F(VerifyCommand, EnginesAreThoseOfTheRecord) {
  quantize(path("a b"));
  EXPECT_EQ(next_, "nibblecast verify " + source() + " '" + path("a b") + "'\n");
  const CliResult as_recorded = verify({source(), path("a b")});
  EXPECT_EQ(as_recorded.exit_code, 0) << as_recorded.out;
  const CliResult named = verify({source(), path("a b"), "--engine", "vllm"});
  EXPECT_EQ(named.exit_code, 6);
  EXPECT_TRUE(contains(named.out, "problem      vllm: ")) << named.out;
}

TEST_F(VerifyCommand, SideFilesAndCards) {
  quantize(path("out"));
  write_file(path("out") + "/README.md", "# A better card");
  fs::remove(path("out") + "/README.source.md");
  const CliResult edited = verify({"--checksums", path("out")});
  EXPECT_EQ(edited.exit_code, 0) << edited.out;
  EXPECT_TRUE(contains(edited.out, "note         README.md: was changed")) << edited.out;
  EXPECT_EQ(verify({source(), path("out")}).exit_code, 0);
  const std::string tokenizer = path("out") + "/tokenizer.json";
  for (const bool recorded : {true, false}) {
    if (!recorded) fs::remove(path("out") + "/nibblecast.json");
    fs::rename(tokenizer, path("kept"));
    const CliResult missing = verify({source(), path("out")});
    EXPECT_EQ(missing.exit_code, 6) << missing.out;
    EXPECT_TRUE(contains(missing.out, "tokenizer.json: is missing")) << missing.out;
    fs::rename(path("kept"), tokenizer);
  }
  // Other bytes are a problem where it is recorded what they were, and something to know elsewhere.
  write_file(tokenizer, read_file(tokenizer).substr(0, 100));
  const CliResult cut = verify({source(), path("out")});
  EXPECT_TRUE(contains(cut.out, "note         tokenizer.json: is not the source's")) << cut.out;
  // A source that has none asks for none.
  fs::create_directory(path("bare"));
  for (const auto& entry : fs::directory_iterator(source())) {
    const std::string name = entry.path().filename();
    if (name.find("token") == std::string::npos)
      fs::create_symlink(fs::absolute(entry.path()), path("bare/") + name);
  }
  fs::remove(tokenizer);
  const CliResult bare = verify({path("bare"), path("out")});
  EXPECT_FALSE(contains(bare.out, "tokenizer.json")) << bare.out;
}

TEST_F(VerifyCommand, EveryRecordedFileIsThereAsItWasWritten) {
  quantize(path("out"));
  for (const char* name : {"tokenizer.json", "nibblecast/source.json"}) {
    const std::string file = path("out") + "/" + name, kept = read_file(file);
    write_file(file, kept + " ");
    const CliResult changed = verify({source(), path("out")});
    EXPECT_EQ(changed.exit_code, 6) << changed.out;
    EXPECT_TRUE(contains(changed.out, std::string(name) + ": was changed since it was written"))
        << changed.out;
    fs::remove(file);
    const CliResult missing = verify({source(), path("out")});
    EXPECT_EQ(missing.exit_code, 6) << missing.out;
    EXPECT_TRUE(contains(missing.out, std::string(name) + ": is missing")) << missing.out;
    write_file(file, kept);
  }
  EXPECT_EQ(verify({source(), path("out")}).exit_code, 0);
}

// transformers would put it over the weights.
TEST_F(VerifyCommand, AnAdapterIsNoPartOfAnOutput) {
  fs::copy(source(), path("src"));
  write_file(path("src") + "/adapter_config.json", "{\"peft_type\": \"LORA\"}");
  const CliResult made = run_cli({"quantize", path("src"), path("out"), "--input-scale", "1.0", "--quiet"});
  EXPECT_EQ(made.exit_code, 0);
  EXPECT_TRUE(
      contains(made.err, "warning: the source holds an adapter (adapter_config.json), which is not applied"))
      << made.err;
  EXPECT_TRUE(contains(made.out, "left out     adapter_config.json")) << made.out;
  EXPECT_EQ(verify({path("src"), path("out")}).exit_code, 0);
  write_file(path("out") + "/adapter_config.json", "{\"peft_type\": \"LORA\"}");
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{path("src"), path("out")}, {"--checksums", path("out")}}) {
    const CliResult verified = verify(command);
    EXPECT_EQ(verified.exit_code, 6) << verified.out;
    EXPECT_TRUE(contains(verified.out, "problem      adapter_config.json: is no part of the model"))
        << verified.out;
  }
}

// Documents of ModelOpt's form name each expert's linears, those of DeepSeek-V4's all experts of a layer.
TEST_F(VerifyCommand, MixedFormatsOfAModelWithExperts) {
  write_file(
      path("mixed.yaml"),
      "rules:\n- modules: \"*.mlp.experts.*\"\n  format: nvfp4\n- modules: \"*.o_proj\"\n  format: fp8\n");
  ASSERT_EQ(run_cli({"synth", "qwen3-moe-tiny", path("m"), "--quiet"}).exit_code, 0);
  const CliResult made = run_cli({"quantize", path("m"), path("mixed"), "--recipe", path("mixed.yaml"),
                                  "--input-scale", "1.0", "--engine", "none", "--quiet"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const CliResult verified = verify({path("m"), path("mixed")});
  EXPECT_EQ(verified.exit_code, 0) << verified.out;
}

TEST_F(VerifyCommand, WhatIsNoOutputIsSaidInOneLine) {
  const CliResult same = verify({source(), source()});
  EXPECT_EQ(same.exit_code, 6);
  EXPECT_TRUE(contains(same.out, "is DST the source")) << same.out;
  EXPECT_TRUE(contains(same.out, "WRONG: 1 problem\n")) << same.out;
  quantize(path("out"));
  const CliResult swapped = verify({path("out"), source()});
  EXPECT_NE(swapped.exit_code, 0);
  EXPECT_TRUE(contains(swapped.err, "are the two swapped?")) << swapped.err;
  fs::create_directories(path("begun") + "/.nibblecast");
  fs::create_directories(path("lost"));
  write_file(path("lost") + "/model-00001-of-00002.safetensors.partial", "bytes");
  for (const char* name : {"begun", "lost"}) {
    const CliResult unfinished = verify({source(), path(name)});
    EXPECT_EQ(unfinished.exit_code, 6);
    EXPECT_EQ(unfinished.out, "");
    EXPECT_EQ(unfinished.err,
              "nibblecast: error: " + path(name) + ": is unfinished; nibblecast status " + path(name) + "\n");
  }
}

TEST_F(VerifyCommand, ARecipeThatMatchesNothingIsRefused) {
  write_file(path("typo.yaml"), "rules:\n- {modules: '*.ffn.expert.*', format: nvfp4}\n");
  const CliResult result = run_cli({"quantize", source(), path("out"), "--recipe", path("typo.yaml")});
  EXPECT_EQ(result.exit_code, 5);
  EXPECT_TRUE(contains(result.err, "no module is quantized")) << result.err;
  EXPECT_TRUE(contains(result.err, "is 'experts' meant?")) << result.err;
  EXPECT_FALSE(fs::exists(path("out")));
}

}  // namespace
}  // namespace nibblecast::testing
