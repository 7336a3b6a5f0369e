// cli/command_line.h - the command that is run, as it was given.
#pragma once

#include <CLI/CLI.hpp>

#include "base/json.h"
#include "pipeline/command_record.h"

namespace nibblecast {

struct CommandLine {
  CommandRecord record;
  Json options = Json::object();  // option -> its value as text, given or by default; "command" too
};

// `command` was parsed of `argv`.
CommandLine command_line_of(int argc, const char* const* argv, const CLI::App& command);

}  // namespace nibblecast
