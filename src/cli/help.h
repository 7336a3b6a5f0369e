// cli/help.h - help in 80 columns that opens with an example. A command's footer is its example.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace nibblecast {

class HelpFormatter : public CLI::Formatter {
 public:
  // `name`: the program, or program and command.
  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override;
};

}  // namespace nibblecast
