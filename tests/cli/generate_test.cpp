// The man page and the shells' completions hold every command and option, and no other.
#include <gmock/gmock.h>

#include <cstdio>
#include <regex>
#include <set>
#include <sstream>

#include "cli/option_table.h"
#include "run_cli.h"

namespace nibblecast::testing {
namespace {

using Words = std::set<std::string>;
using Table = std::map<std::string, Words>;  // command -> its options; "" -> the program's

Words matches(const std::string& text, const std::string& pattern) {
  const std::regex regex(pattern, std::regex::multiline);
  Words words;
  for (std::sregex_iterator match(text.begin(), text.end(), regex), end; match != end; ++match)
    words.insert((*match)[1]);
  return words;
}

// Of what help says: its options stand at the begin of lines.
Words options_in_help(const std::string& help) {
  Words options = matches(help, "^  (?:-[a-z],)?(--[a-z0-9-]+)");
  options.merge(matches(help, "^  (-[a-z])[, ]"));
  return options;
}

Table table_of_help() {
  const std::string help = run_cli({"--help"}).out;
  const std::string commands = help.substr(0, help.find("  --version"));
  Table table = {{"", options_in_help(help)}};
  for (const std::string& command : matches(commands, "^  ([a-z]+)  "))
    table[command] = options_in_help(run_cli({command, "--help"}).out);
  return table;
}

std::string generated(const std::string& what) {
  const CliResult result = run_cli({"generate", what});
  EXPECT_EQ(result.exit_code, 0) << what << result.err;
  return result.out;
}

// From behind `begin` to `end`; empty without `begin`.
std::string between(const std::string& text, const std::string& begin, const std::string& end) {
  const size_t at = text.find(begin);
  if (at == std::string::npos) return {};
  const size_t from = at + begin.size();
  return text.substr(from, text.find(end, from) - from);
}

TEST(Generate, TheManPageIsTheTable) {
  std::string page = generated("man");
  for (size_t at = 0; (at = page.find("\\-", at)) != std::string::npos;) page.erase(at, 1);
  Table table;
  const auto options_in = [](const std::string& text) { return matches(text, "\\\\fB(-[a-z0-9-]+)\\\\fR"); };
  table[""] = options_in(between(page, ".SH OPTIONS\n", ".SH "));
  for (const std::string& command : matches(page, "^\\.SS nibblecast ([a-z]+)$"))
    table[command] = options_in(between(page, ".SS nibblecast " + command + "\n", "\n.S"));
  EXPECT_EQ(table, table_of_help());
  EXPECT_THAT(page, ::testing::HasSubstr("\n   0  done, perhaps with warnings\n"));
  EXPECT_THAT(page, ::testing::HasSubstr("\\fB--calib\\fR \\fIFILE\\fR\ntexts (JSON"));
}

TEST(Generate, FishOffersTheTable) {
  const std::string script = generated("fish");
  Table table;
  std::istringstream lines(script);
  for (std::string line; std::getline(lines, line);) {
    const Words commands = matches(line, "__fish_seen_subcommand_from ([a-z]+)'");
    Words& options = table[commands.empty() ? "" : *commands.begin()];
    for (const std::string& name : matches(line.substr(0, line.find(" -d ")), " -l ([a-z0-9-]+)"))
      options.insert("--" + name);
    for (const std::string& name : matches(line.substr(0, line.find(" -d ")), " -s ([a-z])"))
      options.insert("-" + name);
  }
  EXPECT_EQ(table, table_of_help());
}

TEST(Generate, ZshOffersTheTable) {
  const std::string script = generated("zsh");
  const auto options_in = [](const std::string& text) {
    Words options = matches(text, "^ +'\\*?(--[a-z0-9-]+)\\[");
    for (const std::string& pair : matches(text, "\\{(-[a-z0-9,-]+)\\}"))
      options.merge(matches(pair, "(-[a-z0-9-]+)"));
    return options;
  };
  Table table = {{"", options_in(script.substr(0, script.find("->command")))}};
  for (const std::string& command : matches(script, "^        ([a-z]+)\\)$"))
    table[command] = options_in(between(script, "\n        " + command + ")\n", ";;"));
  EXPECT_EQ(table, table_of_help());
  EXPECT_EQ(matches(between(script, "local -a commands=(", "\n      )"), "^        '([a-z]+):").size(),
            table.size() - 1);
}

// What bash's function offers behind these words, by bash.
Words offered_by_bash(const std::filesystem::path& script, const std::string& words) {
  const std::string command = "bash -c '. " + script.string() + "; COMP_WORDS=(nibblecast " + words +
                              "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _nibblecast; echo ${COMPREPLY[*]}'";
  std::FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return {};
  std::string out;
  for (int letter; (letter = std::fgetc(pipe)) != EOF;) out += static_cast<char>(letter);
  EXPECT_EQ(::pclose(pipe), 0) << command;
  return matches(out, "([^ \n]+)");
}

TEST(Generate, BashOffersTheTable) {
  const TemporaryFolder folder;
  const std::filesystem::path script = folder.path() / "nibblecast.bash";
  write_file(script, generated("bash"));
  const Table table = table_of_help();
  Words first = table.at("");
  for (const auto& [command, options] : table) {
    if (command.empty()) continue;
    first.insert(command);
    EXPECT_EQ(offered_by_bash(script, command + " -"), options) << command;
  }
  EXPECT_EQ(offered_by_bash(script, "\"\""), first);
  EXPECT_EQ(offered_by_bash(script, "pl"), Words{"plan"});
  EXPECT_EQ(offered_by_bash(script, "quantize a b --calib-rows \"\""), (Words{"docs", "packed"}));
  EXPECT_EQ(offered_by_bash(script, "quantize a b --device c"), (Words{"cpu", "cuda"}));
  EXPECT_EQ(offered_by_bash(script, "quantize a b --calib \"\""), Words());  // files, by bash itself
}

TEST(Generate, IsNotShownAndKnowsWhatItMakes) {
  EXPECT_THAT(run_cli({"--help"}).out, ::testing::Not(::testing::HasSubstr("generate")));
  const CliResult result = run_cli({"generate", "tcsh"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.err,
            "nibblecast: error: WHAT: unknown value 'tcsh' (expected man, bash, zsh or fish); see nibblecast "
            "generate --help\n");
}

TEST(Generate, WordsOfADescription) {
  using ::testing::ElementsAre;
  EXPECT_THAT(words_of("docs|packed: a row a text"), ElementsAre("docs", "packed"));
  EXPECT_THAT(words_of("cpu|cuda|cuda:N; default: the first"), ElementsAre("cpu", "cuda"));
  EXPECT_THAT(words_of("none|fp8: instead"), ElementsAre("none", "fp8"));
  EXPECT_THAT(words_of("mxfp4: what releases have"), ElementsAre());
  EXPECT_THAT(words_of(""), ElementsAre());
}

}  // namespace
}  // namespace nibblecast::testing
