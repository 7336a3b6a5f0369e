#include "cli/option_table.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <sstream>
#include <string_view>

namespace nibblecast {
namespace {

// Words for values that are paths; every positional is one.
constexpr std::array<std::string_view, 3> kPaths = {"FILE", "DIR", "R"};

OptionRow option_row(const CLI::Option& option) {
  OptionRow row;
  const bool is_positional = option.get_positional();
  if (is_positional) {
    row.names.push_back(option.get_name(true));
  } else {
    for (const std::string& name : option.get_snames()) row.names.push_back("-" + name);
    for (const std::string& name : option.get_lnames()) row.names.push_back("--" + name);
    row.value = option.get_option_text();
  }
  row.description = option.get_description();
  row.words = words_of(row.description);
  row.is_required = option.get_required();
  row.is_repeatable = option.get_expected_max() > 1;
  row.is_path = is_positional || std::ranges::find(kPaths, row.value) != kPaths.end();
  return row;
}

// In the order in which help has them.
void add_options(const CLI::App& app, std::vector<OptionRow>& positionals, std::vector<OptionRow>& options) {
  for (const CLI::Option* option : app.get_options()) {
    if (option == app.get_help_ptr()) continue;
    (option->get_positional() ? positionals : options).push_back(option_row(*option));
  }
  options.push_back(option_row(*app.get_help_ptr()));
}

}  // namespace

std::vector<const CLI::App*> shown_commands(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App* command) { return !command->get_group().empty(); });
}

std::vector<std::string> words_of(const std::string& description) {
  std::string first = description.substr(0, description.find(' '));
  while (!first.empty() && std::string_view(":;,").find(first.back()) != std::string_view::npos)
    first.pop_back();
  std::vector<std::string> words;
  if (first.find('|') == std::string::npos) return words;
  std::istringstream parts(first);
  for (std::string word; std::getline(parts, word, '|');) {
    const bool stands_for_more =
        std::ranges::any_of(word, [](unsigned char letter) { return std::isupper(letter) != 0; });
    if (!stands_for_more) words.push_back(word);
  }
  return words;
}

OptionTable option_table(const CLI::App& app) {
  OptionTable table{
      .description = app.get_description(), .exit_codes = app.get_footer(), .options = {}, .commands = {}};
  std::vector<OptionRow> none;
  add_options(app, none, table.options);
  for (const CLI::App* command : shown_commands(app)) {
    CommandRow row{.name = command->get_name(),
                   .description = command->get_description(),
                   .example = command->get_footer(),
                   .positionals = {},
                   .options = {}};
    add_options(*command, row.positionals, row.options);
    table.commands.push_back(std::move(row));
  }
  return table;
}

}  // namespace nibblecast
