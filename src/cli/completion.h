// cli/completion.h - scripts by which shells complete commands, options and their values, of the table of
// options.
#pragma once

#include <string>

#include "cli/option_table.h"

namespace nibblecast {

std::string bash_completion(const OptionTable& table);
std::string zsh_completion(const OptionTable& table);
std::string fish_completion(const OptionTable& table);

}  // namespace nibblecast
