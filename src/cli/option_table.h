// cli/option_table.h - the program's commands and options as rows, read from where they are parsed: what man
// page and completions are made of.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace nibblecast {

struct OptionRow {
  std::vector<std::string> names;  // "-o", "--output"; of a positional its name alone: "SRC"
  std::string value;               // the word for it: "FILE"; empty: a flag, or a positional
  std::string description;
  std::vector<std::string> words;  // that are values, as the description begins with them: docs|packed
  bool is_required = false, is_repeatable = false;
  bool is_path = false;  // the value, or the positional
};

struct CommandRow {
  std::string name, description, example;
  std::vector<OptionRow> positionals, options;
};

struct OptionTable {
  std::string description, exit_codes;
  std::vector<OptionRow> options;  // of the program itself
  std::vector<CommandRow> commands;
};

// Those that help shows: a command of the group "" is hidden.
std::vector<const CLI::App*> shown_commands(const CLI::App& app);

// "docs", "packed" of "docs|packed: a row a text...", without those that stand for more (cuda:N).
std::vector<std::string> words_of(const std::string& description);

OptionTable option_table(const CLI::App& app);

}  // namespace nibblecast
