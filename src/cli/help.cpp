#include "cli/help.h"

#include <fmt/format.h>

#include <sstream>

#include "cli/option_table.h"

namespace nibblecast {
namespace {

constexpr size_t kWidth = 80;
constexpr size_t kLeftColumn = 24;  // of the descriptions

// Words in lines that begin at column `indent` and end before kWidth. The first line is begun already: it has
// `begun` columns.
std::string wrapped(const std::string& text, size_t indent, size_t begun) {
  std::istringstream words(text);
  std::string lines;
  size_t column = begun;
  for (std::string word; words >> word;) {
    if (column > indent && column + 1 + word.size() > kWidth) {
      lines += '\n';
      column = 0;
    }
    if (column < indent) {
      lines += std::string(indent - column, ' ');
      column = indent;
    } else if (column > 0) {
      lines += ' ';
      ++column;
    }
    lines += word;
    column += word.size();
  }
  return lines + '\n';
}

std::string line(const std::string& left, const std::string& right) {
  const std::string begun = "  " + left;
  // What is as wide as its column stands on a line of its own.
  if (begun.size() + 2 > kLeftColumn) return begun + '\n' + wrapped(right, kLeftColumn, 0);
  return begun + wrapped(right, kLeftColumn, begun.size());
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
  text += wrapped(app->get_description(), 0, 0) + "\n" + usage(*app, name) + "\n";
  for (const CLI::App* command : shown_commands(*app))
    text += line(command->get_name(), command->get_description());
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
