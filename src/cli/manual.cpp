#include "cli/manual.h"

#include <fmt/format.h>

#include <string_view>

namespace nibblecast {
namespace {

// Text as roff has it: backslashes and hyphens mean something, and so do dots and quotes at a line's begin.
std::string roff(std::string_view text) {
  std::string out;
  for (const char letter : text) {
    if ((letter == '.' || letter == '\'') && (out.empty() || out.back() == '\n')) out += "\\&";
    if (letter == '\\')
      out += "\\e";
    else if (letter == '-')
      out += "\\-";
    else
      out += letter;
  }
  return out;
}

std::string bold(std::string_view text) { return "\\fB" + roff(text) + "\\fR"; }
std::string italic(std::string_view text) { return "\\fI" + roff(text) + "\\fR"; }

std::string entry(const std::string& term, std::string_view description) {
  return ".TP\n" + term + "\n" + roff(description) + "\n";
}

std::string option_entry(const OptionRow& option) {
  std::string names;
  for (const std::string& name : option.names) names += (names.empty() ? "" : ", ") + bold(name);
  if (!option.value.empty()) names += " " + italic(option.value);
  return entry(names, option.description);
}

std::string usage(const CommandRow& command) {
  std::string text = bold("nibblecast " + command.name);
  for (const OptionRow& positional : command.positionals) {
    const std::string name = italic(positional.names.front());
    text += positional.is_required ? " " + name : " [" + name + "]";
  }
  return text + " [" + italic("OPTIONS") + "]\n";
}

std::string command_section(const CommandRow& command) {
  std::string text = fmt::format(".SS {}\n{}.PP\n{}\n", roff("nibblecast " + command.name), usage(command),
                                 roff(command.description));
  text += fmt::format(".PP\n.EX\n    {}\n.EE\n", roff(command.example));
  for (const OptionRow& positional : command.positionals)
    text += entry(italic(positional.names.front()), positional.description);
  for (const OptionRow& option : command.options) text += option_entry(option);
  return text;
}

}  // namespace

std::string manual_page(const OptionTable& table, const std::string& version) {
  std::string text = fmt::format(
      ".\\\" Made by `nibblecast generate man`.\n"
      ".TH NIBBLECAST 1 \"\" \"nibblecast {}\" \"User Commands\"\n"
      ".SH NAME\nnibblecast \\- {}\n"
      ".SH SYNOPSIS\n{} {} ...\n.SH OPTIONS\n",
      roff(version), roff(table.description), bold("nibblecast"), italic("COMMAND"));
  for (const OptionRow& option : table.options) text += option_entry(option);
  text += ".SH COMMANDS\n";
  for (const CommandRow& command : table.commands) text += command_section(command);
  const size_t title_end = table.exit_codes.find('\n');  // "Exit codes:"
  return text + ".SH EXIT STATUS\n.EX\n" + roff(table.exit_codes.substr(title_end + 1)) + "\n.EE\n";
}

}  // namespace nibblecast
