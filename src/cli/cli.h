// cli/cli.h - the command line: argv to a command to an exit code.
#pragma once

namespace nibblecast {

// Never throws; errors are one line on stderr, the exit code their kind (base/error.h).
int run_command_line(int argc, const char* const* argv);

}  // namespace nibblecast
