#include "program_help.h"

#include <regex>
#include <sstream>

#include "run_cli.h"

namespace nibblecast::testing {
namespace {

void add_choices(const std::string& description, std::set<std::string>& choices) {
  static const std::regex list("^[a-z0-9_:.N-]+(\\|[a-z0-9_:.N-]+)+");
  std::smatch match;
  if (!std::regex_search(description, match, list)) return;
  std::istringstream words(match.str());
  for (std::string word; std::getline(words, word, '|');)
    choices.insert(word.ends_with(':') ? word.substr(0, word.size() - 1) : word);
}

HelpOptions options_in(const std::string& help) {
  static const std::regex option("^  (?:-[a-z],)?(--[a-z][a-z0-9-]*)(?: [A-Za-z.]+)? +(.*)$");
  HelpOptions options;
  std::istringstream lines(help);
  std::smatch match;
  for (std::string line; std::getline(lines, line);) {
    if (std::regex_match(line, match, option)) add_choices(match[2], options[match[1]]);
  }
  return options;
}

std::map<std::string, HelpOptions> read_help() {
  static const std::regex command("^  ([a-z]+)  +[A-Z]");
  std::map<std::string, HelpOptions> commands;
  std::istringstream lines(run_cli({"--help"}).out);
  std::smatch match;
  for (std::string line; std::getline(lines, line);) {
    if (std::regex_search(line, match, command))
      commands[match[1]] = options_in(run_cli({match[1], "--help"}).out);
  }
  return commands;
}

}  // namespace

const std::map<std::string, HelpOptions>& help_of_commands() {
  static const std::map<std::string, HelpOptions> commands = read_help();
  return commands;
}

}  // namespace nibblecast::testing
