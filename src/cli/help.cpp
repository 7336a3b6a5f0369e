#include "cli/help.h"

#include <fmt/format.h>

namespace nibblecast {
namespace {

constexpr int kLeftColumn = 36;

std::string line(const std::string& left, const std::string& right) {
  return fmt::format("  {:<{}} {}\n", left, kLeftColumn, right);
}

std::string option_line(const CLI::Option& option) {
  const std::string& value = option.get_option_text();
  const bool positional = option.get_positional();
  std::string left = option.get_name(positional, !positional);
  if (!value.empty() && !positional) left += " " + value;
  return line(left, option.get_description());
}

std::string usage(const CLI::App& app, const std::string& name) {
  std::string text = "Usage: " + name;
  for (const CLI::Option* option : app.get_options()) {
    if (!option->get_positional()) continue;
    text += option->get_required() ? " " + option->get_name(true) : " [" + option->get_name(true) + "]";
  }
  return text + (app.get_parent() == nullptr ? " COMMAND ...\n" : " [OPTIONS]\n");
}

}  // namespace

std::string HelpFormatter::make_help(const CLI::App* app, std::string name, CLI::AppFormatMode) const {
  const bool is_command = app->get_parent() != nullptr;
  std::string text;
  if (is_command) text += fmt::format("Example: {}\n\n", app->get_footer());
  text += app->get_description() + "\n\n" + usage(*app, name) + "\n";
  for (const CLI::App* command : app->get_subcommands([](const CLI::App*) { return true; })) {
    text += line(command->get_name(), command->get_description());
  }
  if (!is_command) text += "\n";
  for (const bool positional : {true, false}) {
    for (const CLI::Option* option : app->get_options()) {
      if (option->get_positional() == positional && option != app->get_help_ptr())
        text += option_line(*option);
    }
  }
  text += option_line(*app->get_help_ptr());
  if (!is_command) text += "\n" + app->get_footer() + "\n";
  return text;
}

}  // namespace nibblecast
