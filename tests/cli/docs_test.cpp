// README.md and docs/*.md against the program: each command line runs, with tiny models in the place of large
// ones; each option that a page names is there, and each that is there is in docs/cli.md.
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <regex>
#include <string_view>

#include "doc_pages.h"
#include "doc_sandbox.h"
#include "program_help.h"
#include "run_cli.h"

namespace nibblecast::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// Command lines that do not run here, by what they begin with. All others do, and must succeed.
struct NotRun {
  std::string_view begin, why;
};
constexpr NotRun kNotRun[] = {
    {"make ", "builds and tests the project; that the target is there is looked at"},
    {"cmake ", "builds the project"},
    {"bench/", "measures for minutes"},
    {"build/release/bench/", "measures for minutes"},
    {"python3 -m venv ", "gets packages from PyPI"},
    {"venv/bin/", "needs packages from PyPI"},
    {"python3 tools/", "needs a trained model, and minutes"},
    {"sudo ", "changes the system; tools/check_packages does, in bare ones"},
    {"pip install ", "changes the system; tools/check_packages does, in bare ones"},
    {"docker ", "needs a container runtime; tools/check_packages takes the image's steps"},
    {"hf ", "the Hub's client, over the network"},
    {"vllm serve ", "an engine, with its GPUs"},
    {"python3 -m sglang.launch_server ", "an engine, with its GPUs"},
    {"trtllm-serve ", "an engine, with its GPUs"},
    {"curl ", "asks a server that an engine has started"},
};

// Command lines that end with another exit code than 0 where they stand, and say why.
struct EndsOtherwise {
  std::string_view page, begin;
  int exit_code;
  std::string_view says;
};
constexpr EndsOtherwise kEndsOtherwise[] = {
    {"README.md", "nibblecast resume", 5, "is finished; nothing is left to do"},
};

const NotRun* reason_not_to_run(const std::string& command) {
  const auto found =
      std::ranges::find_if(kNotRun, [&](const NotRun& row) { return command.starts_with(row.begin); });
  return found == std::end(kNotRun) ? nullptr : &*found;
}

void expect_project_files(const DocText& command) {
  static const std::regex file("(?:^| )((?:tools|bench|docs)/[A-Za-z0-9_./-]+)");
  for (std::sregex_iterator match(command.text.begin(), command.text.end(), file), end; match != end; ++match)
    EXPECT_TRUE(fs::exists(fs::path(NIBBLECAST_SOURCE_DIR) / match->str(1))) << command.where();
}

void expect_make_target(const DocText& command, DocSandbox& sandbox) {
  const std::string target = words_of(command.text).at(1);
  const ShellResult asked = sandbox.run("command -v make >/dev/null || exit 0\nmake -C '" +
                                        std::string(NIBBLECAST_SOURCE_DIR) + "' -n " + target);
  EXPECT_EQ(asked.exit_code, 0) << command.where() << "\n" << asked.output;
}

bool runs_here(const std::string& command) {
#ifndef NIBBLECAST_HTTP
  if (command.find("hf://") != std::string::npos) return false;
#endif
  return reason_not_to_run(command) == nullptr;
}

void expect_end(const DocText& command, const ShellResult& result) {
  const auto otherwise = std::ranges::find_if(kEndsOtherwise, [&](const EndsOtherwise& row) {
    return row.page == command.page && command.text.starts_with(row.begin);
  });
  const bool succeeds = otherwise == std::end(kEndsOtherwise);
  EXPECT_EQ(result.exit_code, succeeds ? 0 : otherwise->exit_code) << command.where() << "\n"
                                                                   << result.output;
  if (!succeeds) {
    EXPECT_THAT(result.output, HasSubstr(std::string(otherwise->says))) << command.where();
  }
}

TEST(Docs, CommandLinesRun) {
  for (const std::string& page : doc_pages()) {
    DocSandbox sandbox;
    for (const DocText& command : doc_commands(page)) {
      expect_project_files(command);
      if (command.text.starts_with("make ")) expect_make_target(command, sandbox);
      if (!runs_here(command.text)) continue;
      expect_end(command, sandbox.run(command.text));
    }
  }
}

constexpr const char* kLowerCase = "abcdefghijklmnopqrstuvwxyz";

// The command that a span is about, and its options; empty where it is about none.
struct SpanOptions {
  std::string command;  // empty: any
  std::vector<std::string> options;
};

SpanOptions options_of(const std::string& span) {
  static const std::regex option("^--[a-z][a-z0-9-]*");
  const auto& help = help_of_commands();
  std::vector<std::string> words = words_of(span);
  if (!words.empty() && words[0] == "nibblecast") words.erase(words.begin());
  SpanOptions found;
  if (words.empty() || (!help.contains(words[0]) && !words[0].starts_with("--"))) return found;
  if (help.contains(words[0])) found.command = words[0];
  for (const std::string& word : words) {
    std::smatch match;
    if (std::regex_search(word, match, option)) found.options.push_back(match.str());
  }
  return found;
}

// Options of other programs, and of the project's own tools.
bool is_option_of_others(const std::string& option) {
  static const std::set<std::string> others = {"--help", "--kv-cache-dtype", "--noise", "--seq", "--version"};
  return others.contains(option);
}

bool is_known(const std::string& command, const std::string& option) {
  const auto& help = help_of_commands();
  if (!command.empty()) return help.at(command).contains(option);
  return std::ranges::any_of(help, [&](const auto& of) { return of.second.contains(option); });
}

// "nibblecast COMMAND" stands for any.
bool names_a_command(const std::vector<std::string>& words) {
  return words.size() > 1 && words[0] == "nibblecast" &&
         words[1].find_first_not_of(kLowerCase) == std::string::npos;
}

void expect_options_there(const DocText& span) {
  const std::vector<std::string> words = words_of(span.text);
  if (names_a_command(words)) {
    // `generate` is for packages; the help does not list it.
    EXPECT_TRUE(help_of_commands().contains(words[1]) || words[1] == "help" || words[1] == "generate")
        << span.where();
  }
  const SpanOptions found = options_of(span.text);
  for (const std::string& option : found.options)
    EXPECT_TRUE(is_known(found.command, option) || is_option_of_others(option))
        << span.where() << ": " << option;
}

TEST(Docs, NameOptionsThatAreThere) {
  for (const std::string& page : doc_pages()) {
    for (const DocText& span : doc_spans(page)) expect_options_there(span);
  }
}

// All literals of src/, those that a line end cuts joined.
std::string program_texts() {
  static const std::regex cut("\"\\s*\n\\s*\"");
  std::string texts;
  for (const auto& entry : fs::recursive_directory_iterator(fs::path(NIBBLECAST_SOURCE_DIR) / "src")) {
    const fs::path extension = entry.path().extension();
    if (extension == ".cpp" || extension == ".h")
      texts += std::regex_replace(read_file(entry.path()), cut, "");
  }
  return texts;
}

TEST(Docs, TroubleshootingQuotesTheProgram) {
  const std::string texts = program_texts();
  size_t quoted = 0;
  for (const std::string& message : doc_first_cells("docs/troubleshooting.md", "| message")) {
    EXPECT_NE(texts.find(message), std::string::npos) << message;
    ++quoted;
  }
  EXPECT_GT(quoted, 30u);
}

// What the prose of docs/cli.md sets as code, as words: `--calib FILE` and `A:64` are three.
std::set<std::string> cli_page_words() {
  static const std::regex word("[A-Za-z0-9_:.-]+");
  std::set<std::string> words;
  for (const DocText& span : doc_spans("docs/cli.md")) {
    for (std::sregex_iterator match(span.text.begin(), span.text.end(), word), end; match != end; ++match)
      words.insert(match->str());
  }
  return words;
}

TEST(Docs, CliPageHasEveryCommandOptionAndWord) {
  const std::set<std::string> words = cli_page_words();
  for (const auto& [command, options] : help_of_commands()) {
    EXPECT_TRUE(words.contains(command)) << command;
    for (const auto& [option, choices] : options) {
      EXPECT_TRUE(words.contains(option) || option == "--help") << command << " " << option;
      for (const std::string& choice : choices)
        EXPECT_TRUE(words.contains(choice)) << command << " " << option << " " << choice;
    }
  }
}

// The test itself: a page with a wrong option is found out, and a page without commands is none.
TEST(DocTests, FindCommandsAndOptions) {
  EXPECT_GT(help_of_commands().size(), 12u);
  EXPECT_TRUE(help_of_commands().at("quantize").at("--compute-dtype").contains("float32"));
  EXPECT_FALSE(is_known("verify", "--calib"));
  EXPECT_EQ(options_of("quantize --evaluate SETS --x-y=3").options,
            (std::vector<std::string>{"--evaluate", "--x-y"}));
  EXPECT_GE(doc_commands("README.md").size(), 10u);
  DocSandbox sandbox;
  const ShellResult result = sandbox.run("nibblecast quantize SRC DST --calibrate texts.jsonl");
  EXPECT_EQ(result.exit_code, 2) << result.output;
  EXPECT_THAT(result.output, HasSubstr("unknown option '--calibrate'"));
}

}  // namespace
}  // namespace nibblecast::testing
