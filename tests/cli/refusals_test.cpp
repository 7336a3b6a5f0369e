// What must not be begun: the exit code, the reason, and nothing left behind.
#include <algorithm>
#include <sstream>

#include "run_cli.h"

namespace nibblecast::testing {
namespace {

class Refusals : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string source() const { return tiny_checkpoint().string(); }
  std::string file(const std::string& name, const std::string& text) const {
    write_file(path(name), text);
    return path(name);
  }
  std::string texts() const { return write_texts(folder_.path()).string(); }

  // Runs `quantize`, which must fail with one line holding `part` and leave no `out`.
  void expect_refusal(int exit_code, const std::string& part, std::vector<std::string> options) {
    std::vector<std::string> arguments = {"quantize", source(), path("out"), "--quiet"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    const CliResult result = run_cli(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_NE(result.err.find(part), std::string::npos) << "'" << part << "' is not in: " << result.err;
    std::string errors;
    std::istringstream lines(result.err);
    for (std::string line; std::getline(lines, line);)
      if (!line.starts_with("nibblecast: warning: ")) errors += line + "\n";
    EXPECT_EQ(errors.rfind("nibblecast: error: ", 0), 0u) << result.err;
    EXPECT_EQ(std::count(errors.begin(), errors.end(), '\n'), 1) << result.err;
    EXPECT_FALSE(std::filesystem::exists(path("out")));
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(Refusals, Activations) {
  expect_refusal(2, "the activations are missing", {});
  expect_refusal(2, "exclude each other", {"--calib", texts(), "--amax", "x"});
  expect_refusal(3, "there is no such file", {"--calib", path("nothing")});
  expect_refusal(3, "there is no such file", {"--amax", path("nothing")});
  expect_refusal(3, "is a folder", {"--amax", source()});
  expect_refusal(2, "exclude each other", {"--calib", texts() + ":5", "--calib-size", "5"});
  expect_refusal(3, "no rows can be made of it", {"--calib", file("empty.txt", "")});
  expect_refusal(3, "binary.txt", {"--calib", file("binary.txt", std::string("a\0b", 3))});
  expect_refusal(3, "ids.jsonl", {"--calib", file("ids.jsonl", "{\"input_ids\": [1, 99999999]}\n")});
  expect_refusal(3, "ids.jsonl", {"--calib", file("ids.jsonl", "{\"input_ids\": [-1]}\n")});
  expect_refusal(3, "latin1.txt", {"--calib", file("latin1.txt", "caf\xe9")});
  expect_refusal(3, "garbage", {"--amax", file("garbage", "not an amax file, but long enough to be one")});
}

TEST_F(Refusals, CalibrationFiles) {
  const auto refuse = [&](int exit_code, const std::string& part, const std::string& content,
                          std::vector<std::string> options = {}) {
    options.insert(options.begin(), {"--calib", file("calib", content)});
    expect_refusal(exit_code, part, options);
  };
  refuse(3, "`zcat " + path("calib") + " | nibblecast ... --calib -`", "\x1f\x8b\x08");
  refuse(3, "nothing but white space", "\n\n\n");
  refuse(3, "found body, id", "{\"body\": \"a\", \"id\": 1}\n");
  refuse(3, "element 1: at byte 1: none of the keys", "[{\"body\": \"a\"}]");
  refuse(3, "a table without a column", "id,body\n1,a\n2,b\n");
  refuse(3, "there is no 'other'", "{\"text\": \"a\"}\n", {"--calib-key", "other"});
  refuse(3, "not a JSON array", "[\"a\", \"b\"");
  refuse(3, "has holes", "{\"input_ids\": [1, 2, 3], \"attention_mask\": [1, 0, 1]}");
  refuse(3, "too little to calibrate on (expected at least 16 tokens", "{\"input_ids\": [1, 2, 3]}\n");
  expect_refusal(3, "`hf download Salesforce/wikitext --repo-type dataset",
                 {"--calib", "Salesforce/wikitext"});
  expect_refusal(2, "--calib-key requires --calib", {"--calib-key", "text"});
}

TEST_F(Refusals, Options) {
  expect_refusal(2, "unknown recipe 'int4'", {"--calib", texts(), "--recipe", "int4"});
  expect_refusal(2, "unknown value 'torch'", {"--calib", texts(), "--engine", "torch"});
  expect_refusal(2, "unknown option '--fast'", {"--calib", texts(), "--fast"});
  expect_refusal(2, "lies in the source",
                 {"--calib", texts(), "--save-amax", source() + "/amax.safetensors"});
  expect_refusal(2, "lies in the destination",
                 {"--calib", texts(), "--save-amax", path("out") + "/amax.safetensors"});
  expect_refusal(2, "its folder does not exist", {"--calib", texts(), "--save-amax", path("none") + "/amax"});
  expect_refusal(5, "of memory and may use 20.0 MiB",
                 {"--calib", texts(), "--calib-size", "6", "--memory", "20M"});
}

TEST_F(Refusals, Destination) {
  const auto error_of = [&](const std::string& destination) {
    const CliResult result = run_cli({"quantize", source(), destination, "--calib", texts(), "--quiet"});
    EXPECT_EQ(result.exit_code, 5) << result.err;
    return result.err;
  };
  const auto before = folder_contents(tiny_checkpoint());
  EXPECT_NE(error_of(source() + "/out").find("inside one another"), std::string::npos);
  EXPECT_NE(error_of(source()).find("inside one another"), std::string::npos);
  EXPECT_NE(error_of(tiny_checkpoint().parent_path().string()).find("inside one another"), std::string::npos);
  EXPECT_TRUE(folder_contents(tiny_checkpoint()) == before);
  std::filesystem::create_directory(path("busy"));
  file("busy/notes.txt", "mine");
  EXPECT_NE(error_of(path("busy")).find("is not empty"), std::string::npos);
  EXPECT_EQ(folder_contents(path("busy")), (std::map<std::string, std::string>{{"notes.txt", "mine"}}));
  EXPECT_NE(error_of(file("a_file", "")).find("is not a folder"), std::string::npos);
}

TEST_F(Refusals, DamagedTokenizer) {
  std::filesystem::copy(tiny_checkpoint(), path("source"), std::filesystem::copy_options::recursive);
  const std::string tokenizer = path("source") + "/tokenizer.json";
  std::filesystem::resize_file(tokenizer, std::filesystem::file_size(tokenizer) / 2);
  const CliResult result = run_cli({"quantize", path("source"), path("out"), "--calib", texts()});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_NE(result.err.find("tokenizer.json"), std::string::npos) << result.err;
  EXPECT_FALSE(std::filesystem::exists(path("out")));
}

// All of V4-Pro in holes: sizes to the byte, and no room for it.
// Whether the disk has room for it or not; preflight_test.cpp has one that has none.
TEST_F(Refusals, V4ProIsPlannedWhole) {
  ASSERT_EQ(run_cli({"synth", "v4-pro", path("pro"), "--sparse", "--quiet"}).exit_code, 0);
  const CliResult plan = run_cli({"plan", path("pro"), "--json"});
  const Json json = Json::parse(plan.out);
  EXPECT_EQ(json["source"]["bytes"], 864704792696);
  EXPECT_EQ(json["source"]["tensors"], 145116);
  ASSERT_EQ(json["bounds"].size(), 61u);
  for (const Json& layer : json["bounds"]) {
    ASSERT_EQ(layer["taps"].size(), 2u) << layer;
    for (const char* tap : {"experts.in", "experts.mid"}) {
      EXPECT_GT(layer["taps"][tap]["most"], 0);
      EXPECT_EQ(layer["taps"][tap]["one_is_safe"], true);
    }
  }
  EXPECT_EQ(plan.exit_code, json["errors"].empty() ? 0 : 5) << plan.err;
}

TEST_F(Refusals, ADeviceThatCannotBeUsed) {
  for (const char* device : {"cuda", "cuda:0"}) {
    const CliResult result = run_cli({"plan", source(), "--device", device});
    EXPECT_EQ(result.exit_code, 5);
    EXPECT_NE(result.err.find("--device cpu does without"), std::string::npos) << result.err;
  }
  const CliResult on_cpu = run_cli({"plan", source(), path("out")});
  EXPECT_EQ(on_cpu.exit_code, 0);
  EXPECT_NE(on_cpu.out.find("device       cpu ("), std::string::npos) << on_cpu.out;  // and why
}

TEST_F(Refusals, PlanRefusesAsQuantizeDoes) {
  const CliResult plan = run_cli({"plan", source(), "--memory", "20M"});
  EXPECT_EQ(plan.exit_code, 5);
  EXPECT_NE(plan.err.find("refused: the run needs "), std::string::npos) << plan.err;
  EXPECT_EQ(plan.out.find("refused"), std::string::npos) << plan.out;  // said once
  std::filesystem::create_directory(path("busy"));
  file("busy/notes.txt", "mine");
  const CliResult busy = run_cli({"plan", source(), path("busy"), "--json"});
  EXPECT_EQ(busy.exit_code, 5);
  EXPECT_EQ(Json::parse(busy.out)["errors"].size(), 1u);
}

TEST_F(Refusals, Inspect) {
  EXPECT_EQ(run_cli({"inspect", source(), "--tensor", "nothing"}).exit_code, 2);
  EXPECT_EQ(run_cli({"inspect", path("nothing")}).exit_code, 3);
  EXPECT_EQ(run_cli({"inspect", file("short.safetensors", "abc")}).exit_code, 3);
}

TEST_F(Refusals, SynthIntoABusyFolder) {
  std::filesystem::create_directory(path("busy"));
  file("busy/notes.txt", "mine");
  EXPECT_EQ(run_cli({"synth", "v4-tiny", path("busy")}).exit_code, 5);
  EXPECT_EQ(run_cli({"synth", "v4-tiny", path("x"), "--layers", "900..901"}).exit_code, 2);
}

}  // namespace
}  // namespace nibblecast::testing
