// tests/cli/program_help.h - commands and options, as the program's own help lists them.
#pragma once

#include <map>
#include <set>
#include <string>

namespace nibblecast::testing {

// Option -> what it may be, where the help lists words: "auto|cpu" gives both. "-o" counts as its long name
// alone.
using HelpOptions = std::map<std::string, std::set<std::string>>;

// Command -> its options, read once a process from `nibblecast COMMAND --help`.
const std::map<std::string, HelpOptions>& help_of_commands();

}  // namespace nibblecast::testing
