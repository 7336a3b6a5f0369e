#include "doc_sandbox.h"

#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <span>
#include <string_view>
#include <vector>

#include "doc_pages.h"
#include "run_cli.h"

namespace nibblecast::testing {
namespace {

namespace fs = std::filesystem;

enum class Thing : uint8_t { kNone, kSource, kOutput, kTexts, kAmax, kMoments, kEvaluation, kRecipe };

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::ranges::find(names, name) != names.end();
}

// What pages mean by a name.
Thing thing_of(const std::string& name) {
  if (is_one_of(name, {"SRC", "MODEL", "DeepSeek-V4-Pro", "DeepSeek-V4-Flash", "V4-Flash", "Qwen3-8B",
                       "Llama-3.1-8B-Instruct", "Qwen3-30B-A3B"}))
    return Thing::kSource;
  if (is_one_of(name, {"DST", "OUT", "OTHER"}) || name.ends_with("-NVFP4")) return Thing::kOutput;
  if (is_one_of(name, {"TEXTS", "SETS"}) || name.ends_with(".jsonl")) return Thing::kTexts;
  if (name == "moments.safetensors") return Thing::kMoments;
  if (is_one_of(name, {"AMAX", "amax.safetensors"})) return Thing::kAmax;
  if (name == "eval.json") return Thing::kEvaluation;
  return name.ends_with(".yaml") ? Thing::kRecipe : Thing::kNone;
}

std::string preset_of(const std::string& name) {
  if (name.find("A3B") != std::string::npos) return "qwen3-moe-tiny";
  const bool is_dense = name.find("Qwen") != std::string::npos || name.find("Llama") != std::string::npos;
  return is_dense ? "qwen3-tiny" : "v4-tiny";
}

void must_run(const std::vector<std::string>& arguments) {
  const CliResult result = run_cli(arguments);
  EXPECT_EQ(result.exit_code, 0) << ::testing::PrintToString(arguments) << result.err;
}

// Models and what is made of them, once a process.
class Store {
 public:
  fs::path source(const std::string& preset) const {
    const fs::path made = folder_.path() / preset;
    if (!fs::exists(made)) must_run({"synth", preset, made.string(), "--quiet"});
    return made;
  }
  fs::path output(const std::string& preset) const {
    const fs::path made = folder_.path() / (preset + "-NVFP4");
    if (!fs::exists(made))
      must_run({"quantize", source(preset), made, "--input-scale", "1.0", "--base-model", "owner/name",
                "--quiet"});
    return made;
  }
  // Enough for a row of 2,048 tokens.
  fs::path texts() const {
    const fs::path made = folder_.path() / "texts.jsonl";
    if (fs::exists(made)) return made;
    const std::string few = read_file(write_texts(folder_.path()));
    std::string lines;
    while (lines.size() < 6000) lines += few;
    write_file(made, lines);
    return made;
  }
  fs::path amax(const std::string& preset, bool moments) const {
    const fs::path made = folder_.path() / (preset + (moments ? ".moments" : ".amax"));
    std::vector<std::string> command = {"calibrate", source(preset), "--calib", texts(),
                                        "-o",        made,           "--quiet"};
    if (moments) command.emplace_back("--second-moments");
    if (!fs::exists(made)) must_run(command);
    return made;
  }
  std::string evaluation() const {
    return run_cli({"evaluate", source("v4-tiny"), output("v4-tiny"), "--text", texts(), "--text-rows",
                    "docs", "--json", "--quiet"})
        .out;
  }

 private:
  TemporaryFolder folder_;
};

const Store& store() {
  static const Store made;
  return made;
}

void replace_all(std::string& text, std::string_view what, std::string_view by) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size())
    text.replace(at, what.size(), by);
}

std::string in_small(std::string command) {
  constexpr std::pair<std::string_view, std::string_view> kReplaced[] = {
      {"/usr/bin/time -v ", ""},
      {"build/release/nibblecast", "nibblecast"},
      {" /models/", " "},
      {" /data/", " "},
      {" /tmp/", " "},
      {"synth v4-pro", "synth v4-tiny"},
      {"synth v4-flash", "synth v4-tiny"},
      {"synth qwen3-8b", "synth qwen3-tiny"}};
  for (const auto& [what, by] : kReplaced) replace_all(command, what, by);
  return command;
}

// The commands of a line, each its words, without quotes.
std::vector<std::vector<std::string>> parts_of(const std::string& line) {
  std::vector<std::vector<std::string>> parts(1);
  for (std::string word : words_of(line)) {
    if (word.starts_with('#')) break;
    if (is_one_of(word, {"&&", "||", "|", ";"})) {
      parts.emplace_back();
      continue;
    }
    std::erase_if(word, [](char character) { return character == '"' || character == '\''; });
    parts.back().push_back(word);
  }
  return parts;
}

// Names of what a command makes: DST, and files that options name.
std::vector<std::string> made_by(std::span<const std::string> words) {
  std::vector<std::string> made;
  const bool makes_folder =
      words.size() > 3 && is_one_of(words[1], {"plan", "quantize", "dequantize", "convert", "synth"});
  if (makes_folder && !words[3].starts_with('-')) made.push_back(words[3]);
  for (size_t at = 0; at + 1 < words.size(); ++at) {
    if (is_one_of(words[at], {"-o", "--output", "--save-amax", "--work-dir", ">"}))
      made.push_back(words[at + 1]);
  }
  return made;
}

}  // namespace

DocSandbox::DocSandbox() {
  fs::create_directories(path(".bin"));
  fs::create_symlink(fs::absolute(NIBBLECAST_BINARY), path(".bin/nibblecast"));
}

DocSandbox::~DocSandbox() = default;

void DocSandbox::supply(const std::string& name) {
  const Thing thing = thing_of(name);
  if (thing == Thing::kNone || fs::exists(path(name))) return;
  const std::string preset = preset_of(name);
  if (path(name).has_parent_path()) fs::create_directories(path(name).parent_path());
  switch (thing) {
    case Thing::kSource:
      return fs::create_directory_symlink(store().source(preset), path(name));
    case Thing::kOutput:
      return fs::copy(store().output(preset), path(name), fs::copy_options::recursive);
    case Thing::kTexts:
      return fs::copy(store().texts(), path(name));
    case Thing::kAmax:
    case Thing::kMoments:
      return fs::copy(store().amax(preset, thing == Thing::kMoments), path(name));
    case Thing::kEvaluation:
      return write_file(path(name), store().evaluation());
    case Thing::kRecipe:
      return write_file(path(name), "rules:\n  - modules: \"*\"\n    format: nvfp4\n");
    case Thing::kNone:
      return;
  }
}

// hf://OWNER/NAME[@REVISION]
void DocSandbox::supply_hub(const std::string& address) {
#ifdef NIBBLECAST_HTTP
  constexpr std::string_view kScheme = "hf://";
  const std::string id = address.substr(kScheme.size(), address.find('@') - kScheme.size());
  std::unique_ptr<HubServer>& hub = hubs_[id];
  if (!hub) hub = std::make_unique<HubServer>(store().source(preset_of(id)), id);
  endpoint_ = hub->endpoint();
#else
  ADD_FAILURE() << "this build reads no " << address;
#endif
}

void DocSandbox::prepare(const std::string& command) {
  std::vector<std::string> made;
  for (const std::vector<std::string>& words : parts_of(command))
    std::ranges::copy(made_by(words), std::back_inserter(made));
  for (const std::string& name : made) {
    if (thing_of(name) != Thing::kNone) fs::remove_all(path(name));
  }
  for (const std::vector<std::string>& words : parts_of(command)) {
    for (std::string name : words) {
      if (name.starts_with("hf://")) supply_hub(name);
      if (std::ranges::find(made, name) != made.end()) continue;
      if (name.find(':') != std::string::npos &&
          name.find(".jsonl") != std::string::npos) {  // A.jsonl:64,B.jsonl:64
        std::ranges::replace(name, ',', ' ');
        for (const std::string& set : words_of(name)) supply(set.substr(0, set.find(':')));
      } else {
        supply(name.substr(0, name.find_last_not_of('/') + 1));
      }
    }
  }
}

ShellResult DocSandbox::run(const std::string& command) {
  const std::string text = in_small(command);
  prepare(text);
  write_file(path(".command"), "cd '" + folder_.path().string() + "' || exit 99\nexec 2>&1 </dev/null\n" +
                                   "export PATH='" + path(".bin").string() + "':\"$PATH\" HF_HOME='" +
                                   path(".hf").string() + "' HF_ENDPOINT='" + endpoint_ +
                                   "' no_proxy=127.0.0.1,localhost CUDA_VISIBLE_DEVICES=\n" + text + "\n");
  ShellResult result;
  FILE* output = popen(("/bin/sh '" + path(".command").string() + "'").c_str(), "r");
  if (output == nullptr) return result;
  std::array<char, 4096> piece;
  for (size_t got; (got = std::fread(piece.data(), 1, piece.size(), output)) > 0;)
    result.output.append(piece.data(), got);
  const int status = pclose(output);
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  return result;
}

}  // namespace nibblecast::testing
