// docs/json.md names the keys that the program prints, and no others: of each command, however it ends.
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <regex>
#include <set>

#include "program_help.h"
#include "run_cli.h"

namespace nibblecast::testing {
namespace {

namespace fs = std::filesystem;
using Words = std::set<std::string>;

// The words of a text's code spans; "source.path" is two, and what is no word (`--json`) none.
Words code_words(const std::string& text) {
  static const std::regex span("`([a-z0-9_]+)(?:\\.([a-z0-9_]+))?(?:\\[\\])?`");
  Words words;
  for (std::sregex_iterator match(text.begin(), text.end(), span), end; match != end; ++match) {
    words.insert((*match)[1]);
    if ((*match)[2].matched) words.insert((*match)[2]);
  }
  return words;
}

// What docs/json.md says: of every object, and in the paragraph of one command ("**plan** ...").
class KeysDocument {
 public:
  KeysDocument() : text_(read_file(fs::path(NIBBLECAST_SOURCE_DIR) / "docs/json.md")) {
    everywhere_ = code_words(text_.substr(0, text_.find("## Keys of each command")));
  }

  Words own(const std::string& command) const {
    for (size_t begin = text_.find("\n**"); begin != std::string::npos;
         begin = text_.find("\n**", begin + 1)) {
      const size_t name = begin + 3, name_end = text_.find("**", name);
      const std::string names = ", " + text_.substr(name, name_end - name) + ",";
      if (names.find(" " + command + ",") == std::string::npos) continue;
      return code_words(text_.substr(name_end, text_.find("\n\n", name_end) - name_end));
    }
    return {};
  }

  const Words& everywhere() const { return everywhere_; }

 private:
  std::string text_;
  Words everywhere_;
};

// Keys and texts at any depth: texts too, as the document names values ("new", "good").
void add_words(const Json& value, Words& words) {
  if (value.is_string()) words.insert(value.get<std::string>());
  if (!value.is_structured()) return;
  for (const auto& [key, member] : value.items()) {
    if (value.is_object()) words.insert(key);
    add_words(member, words);
  }
}

// Objects whose keys are names of tensors, inputs, engines...
bool has_names_as_keys(const std::string& key) {
  static const Words keys = {"amax",           "bound",        "engines",           "expert_formats",
                             "inexact",        "inputs",       "modules_by_format", "nonfinite",
                             "outside_window", "layer_passes", "layer_seconds",     "parts",
                             "relative_error", "taps"};
  return keys.contains(key);
}

// Objects that others wrote.
bool is_foreign(const std::string& key) { return key == "metadata" || key == "quantization_config"; }

void add_keys(const Json& value, Words& keys, bool are_names = false) {
  if (!value.is_structured()) return;
  for (const auto& [key, member] : value.items()) {
    if (value.is_object() && !are_names) keys.insert(key);
    if (!value.is_object() || !is_foreign(key))
      add_keys(member, keys, value.is_object() && has_names_as_keys(key));
  }
}

Words without(const Words& words, const Words& others) {
  Words left;
  std::ranges::set_difference(words, others, std::inserter(left, left.end()));
  return left;
}

Words words_of_page(const std::string& page) {
  return code_words(read_file(fs::path(NIBBLECAST_SOURCE_DIR) / page));
}

class JsonKeys : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string source() const { return tiny_checkpoint().string(); }
  std::string texts() const { return write_texts(folder_.path()).string(); }

  // Runs a command; every key of its reply, at any depth, must be in the document, or among `more`.
  void reply_of(std::vector<std::string> arguments, const Words& more = {}) {
    const std::string command = arguments[0];
    arguments.insert(arguments.end(), {"--json", "--quiet"});
    const CliResult result = run_cli(arguments);
    const Json reply = Json::parse(result.out);
    EXPECT_EQ(reply.at("exit_code"), result.exit_code);
    EXPECT_EQ(reply.at("ok"), result.exit_code == 0);
    Words keys, known = document_.everywhere();
    add_keys(reply, keys);
    known.merge(document_.own(command));
    known.insert(more.begin(), more.end());
    EXPECT_THAT(without(keys, known), ::testing::IsEmpty()) << ::testing::PrintToString(arguments);
    add_words(reply, printed_);
  }

  // After the replies of a command: what the document says of it was printed.
  void expect_printed(const std::string& command, const Words& but) const {
    const Words own = document_.own(command);
    EXPECT_THAT(own, ::testing::Not(::testing::IsEmpty())) << command;
    EXPECT_THAT(without(without(own, printed_), but), ::testing::IsEmpty()) << command;
  }

  // What paragraphs refer to.
  Words record() const { return words_of_page("docs/formats/nibblecast-json.md"); }
  Words record_and_evaluation() const {
    Words words = record();
    words.merge(document_.own("evaluate"));
    return words;
  }

  const KeysDocument document_;

 private:
  TemporaryFolder folder_;
  Words printed_;
};

// However a command ends, and whatever of: the keys of an error.
TEST_F(JsonKeys, OfWhatFails) {
  for (const auto& [command, options] : help_of_commands()) {
    reply_of({command, path("absent"), "--no-such-option"});
    reply_of({command, path("absent"), path("nowhere")});
    reply_of({command});
  }
}

TEST_F(JsonKeys, OfPlan) {
  reply_of({"plan", source(), "--calib", texts()});
  reply_of({"plan", source(), "--explain", "layers.0.ffn.experts.0.w1"});
  expect_printed("plan", {"context", "buffers", "streams", "streams_resident", "expert_slot", "expert_slots",
                          "least"});  // of a GPU
}

TEST_F(JsonKeys, OfQuantize) {
  const std::vector<std::string> command = {"quantize",   source(), path("out"),      "--calib", texts(),
                                            "--evaluate", texts(),  "--evaluate-seq", "32"};
  std::vector<std::string> validate = command;
  validate.push_back("--validate-only");
  reply_of(validate);
  reply_of(command, record_and_evaluation());
  reply_of(command);
  reply_of(validate);
  expect_printed("quantize", {"unfinished", "warnings", "good"});
  reply_of({"convert", path("out"), path("back"), "--to", "mxfp4"}, record());
  reply_of({"dequantize", source(), path("wide")}, record());
}

TEST_F(JsonKeys, OfResume) {
  const std::vector<std::string> quantize = {"quantize", source(),           path("out"), "--calib",
                                             texts(),    "--max-perplexity", "0.001"};
  EXPECT_EQ(run_cli(quantize).exit_code, 6);
  Words known = record();
  known.merge(document_.own("quantize"));
  reply_of({"resume", path("out")}, known);
}

TEST_F(JsonKeys, OfReport) {
  run_cli({"quantize", source(), path("out"), "--weight-method", "max", "--calib", texts(), "--evaluate",
           texts(), "--evaluate-seq", "32", "--quiet"});
  Words known = words_of_page("docs/formats/report.md");
  known.merge(record_and_evaluation());
  reply_of({"report", path("out")}, known);
  expect_printed("report", {});
}

TEST_F(JsonKeys, OfCalibrate) {
  reply_of({"calibrate", source(), "--calib", texts(), "-o", path("amax")});
  expect_printed("calibrate", {});
}

TEST_F(JsonKeys, OfStatus) {
  const std::vector<std::string> quantize = {"quantize", source(), path("out"),
                                             "--calib",  texts(),  "--quiet"};
  std::vector<std::string> ended = quantize;
  ended.insert(ended.end(), {"--max-perplexity", "0.001"});  // before there is a checkpoint
  EXPECT_EQ(run_cli(ended).exit_code, 6);
  reply_of({"status", path("out")});
  EXPECT_EQ(run_cli(quantize).exit_code, 0);
  reply_of({"status", path("out")});
  expect_printed("status", {"bytes_per_second", "layers_per_second"});  // either
}

TEST_F(JsonKeys, OfVerify) {
  run_cli({"quantize", source(), path("out"), "--input-scale", "1", "--quiet"});
  reply_of({"verify", source(), path("out"), "--source"});
  reply_of({"verify", source(), "--source"});
  reply_of({"verify", path("out"), "--checksums"});
  expect_printed("verify", {});
}

TEST_F(JsonKeys, OfInspect) {
  reply_of({"inspect", source()});
  reply_of({"inspect", source(), "--tensor", "layers.0.ffn.experts.0.w1"});
  reply_of({"inspect", source(), "--tensor", "norm.weight"});
  run_cli({"calibrate", source(), "--calib", texts(), "-o", path("amax"), "--quiet"});
  reply_of({"inspect", path("amax")});
  run_cli({"quantize", source(), path("out"), "--amax", path("amax"), "--quiet"});
  reply_of({"inspect", path("out"), "--tensor", "layers.0.ffn.experts.0.w1"});
  expect_printed("inspect", {});
}

TEST_F(JsonKeys, OfCompare) {
  run_cli({"quantize", source(), path("out"), "--input-scale", "1", "--quiet"});
  reply_of({"compare", source(), path("out")});
  expect_printed("compare", {});
}

TEST_F(JsonKeys, OfEvaluate) {
  run_cli({"quantize", source(), path("out"), "--input-scale", "1", "--quiet"});
  for (const char* activations : {"none", "nvfp4"}) {
    reply_of({"evaluate", source(), path("out"), "--text", texts(), "--text-rows", "docs", "--activations",
              activations});
  }
  reply_of(
      {"evaluate", source(), path("out"), "--text", texts(), "--text-rows", "docs", "--input-scales", "x2"});
  expect_printed("evaluate", {});
}

TEST_F(JsonKeys, OfDoctor) {
  reply_of({"doctor", path("")});
  // Of a GPU, and of a line.
  expect_printed("doctor", {"ordinal", "compute_capability", "memory_bytes", "usable_bytes", "line", "source",
                            "bytes_per_second"});
}

TEST_F(JsonKeys, OfSynth) {
  reply_of({"synth", "v4-tiny", path("new")});
  expect_printed("synth", {});
}

}  // namespace
}  // namespace nibblecast::testing
