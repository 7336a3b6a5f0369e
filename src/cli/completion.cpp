#include "cli/completion.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string_view>

namespace nibblecast {
namespace {

// All shells here know 'text', with '\'' for a quote in it; fish has \' inside.
std::string in_quotes(std::string_view text) {
  std::string out = "'";
  for (const char letter : text) out += letter == '\'' ? std::string("'\\''") : std::string(1, letter);
  return out + "'";
}

std::vector<std::string> command_names(const OptionTable& table) {
  std::vector<std::string> names;
  for (const CommandRow& command : table.commands) names.push_back(command.name);
  return names;
}

std::string option_names(const std::vector<OptionRow>& options) {
  std::vector<std::string> names;
  for (const OptionRow& option : options) names.insert(names.end(), option.names.begin(), option.names.end());
  return fmt::format("{}", fmt::join(names, " "));
}

// What bash offers behind an option: words, files (which `complete -o default` does), or nothing.
std::string bash_value_case(const CommandRow& command, const OptionRow& option) {
  if (option.value.empty()) return {};
  std::vector<std::string> patterns;
  for (const std::string& name : option.names) patterns.push_back(in_quotes(command.name + " " + name));
  std::string what = "compopt +o default +o bashdefault 2>/dev/null";
  if (option.is_path) what = ":";
  if (!option.words.empty()) what = fmt::format("words='{}'", fmt::join(option.words, " "));
  return fmt::format("    {}) {} ;;\n", fmt::join(patterns, "|"), what);
}

// "[description]" of zsh's _arguments.
std::string zsh_explained(std::string_view description) {
  std::string out = "[";
  for (const char letter : description) {
    if (letter == '[' || letter == ']' || letter == '\\') out += '\\';
    out += letter;
  }
  return out + "]";
}

std::string zsh_action(const OptionRow& row) {
  if (!row.words.empty()) return fmt::format("({})", fmt::join(row.words, " "));
  return row.is_path ? "_files" : " ";
}

std::string zsh_option(const OptionRow& option) {
  std::string rest = zsh_explained(option.description);
  if (!option.value.empty()) rest += ":" + option.value + ":" + zsh_action(option);
  if (option.names.size() == 1)
    return in_quotes((option.is_repeatable ? "*" : "") + option.names.front() + rest);
  return fmt::format("'({})'{{{}}}{}", fmt::join(option.names, " "), fmt::join(option.names, ","),
                     in_quotes(rest));
}

std::string zsh_positional(const OptionRow& positional) {
  const std::string name = positional.names.front();
  if (positional.is_repeatable) return in_quotes("*:" + name + ":_files");
  return in_quotes((positional.is_required ? ":" : "::") + name + ":_files");
}

std::string zsh_command(const CommandRow& command) {
  std::string text = "        " + command.name + ")\n          _arguments";
  for (const OptionRow& option : command.options) text += " \\\n            " + zsh_option(option);
  for (const OptionRow& positional : command.positionals)
    text += " \\\n            " + zsh_positional(positional);
  return text + "\n          ;;\n";
}

std::string fish_quoted(std::string_view text) {
  std::string out = "'";
  for (const char letter : text) {
    if (letter == '\'' || letter == '\\') out += '\\';
    out += letter;
  }
  return out + "'";
}

// `condition`: a test of fish's that holds where the option is offered.
std::string fish_option(std::string_view condition, const OptionRow& option) {
  std::string line = fmt::format("complete -c nibblecast -n {}", fish_quoted(condition));
  for (const std::string& name : option.names)
    line += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
  if (!option.words.empty())
    line += fmt::format(" -x -a {}", fish_quoted(fmt::format("{}", fmt::join(option.words, " "))));
  else if (!option.value.empty())
    line += option.is_path ? " -r -F" : " -x";
  return line + " -d " + fish_quoted(option.description) + "\n";
}

}  // namespace

std::string bash_completion(const OptionTable& table) {
  std::string text =
      "# bash completion for nibblecast; made by `nibblecast generate bash`.\n"
      "_nibblecast() {\n"
      "  local current=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} words=\n"
      "  local before=${COMP_WORDS[COMP_CWORD - 1]}\n"
      "  COMPREPLY=()\n"
      "  if ((COMP_CWORD == 1)); then\n";
  text += fmt::format("    words='{} {}'\n  else\n  case \"$command $before\" in\n",
                      fmt::join(command_names(table), " "), option_names(table.options));
  for (const CommandRow& command : table.commands) {
    for (const OptionRow& option : command.options) text += bash_value_case(command, option);
  }
  text += "    *) if [[ $current == -* ]]; then case $command in\n";
  for (const CommandRow& command : table.commands)
    text += fmt::format("      {}) words='{}' ;;\n", command.name, option_names(command.options));
  return text +
         "      esac; fi ;;\n"
         "  esac\n"
         "  fi\n"
         "  [[ -n $words ]] && mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")\n"
         "}\n"
         "complete -o default -o bashdefault -F _nibblecast nibblecast\n";
}

std::string zsh_completion(const OptionTable& table) {
  std::string text =
      "#compdef nibblecast\n"
      "# Made by `nibblecast generate zsh`.\n"
      "_nibblecast() {\n"
      "  local curcontext=$curcontext state line ret=1\n"
      "  typeset -A opt_args\n"
      "  _arguments -C";
  for (const OptionRow& option : table.options) text += " \\\n    " + zsh_option(option);
  text +=
      " \\\n    '1:command:->command' '*::argument:->argument' && ret=0\n"
      "  case $state in\n"
      "    command)\n"
      "      local -a commands=(\n";
  for (const CommandRow& command : table.commands)
    text += "        " + in_quotes(command.name + ":" + command.description) + "\n";
  text +=
      "      )\n"
      "      _describe command commands && ret=0\n"
      "      ;;\n"
      "    argument)\n"
      "      case $words[1] in\n";
  for (const CommandRow& command : table.commands) text += zsh_command(command);
  return text +
         "      esac\n"
         "      ;;\n"
         "  esac\n"
         "  return ret\n"
         "}\n"
         "if [ \"$funcstack[1]\" = _nibblecast ]; then _nibblecast \"$@\"; else compdef _nibblecast "
         "nibblecast; "
         "fi\n";
}

std::string fish_completion(const OptionTable& table) {
  std::string text = "# fish completion for nibblecast; made by `nibblecast generate fish`.\n";
  constexpr const char* kNone = "__fish_use_subcommand";
  for (const OptionRow& option : table.options) text += fish_option(kNone, option);
  for (const CommandRow& command : table.commands) {
    text += fmt::format("complete -c nibblecast -n {} -f -a {} -d {}\n", kNone, command.name,
                        fish_quoted(command.description));
  }
  for (const CommandRow& command : table.commands) {
    for (const OptionRow& option : command.options)
      text += fish_option("__fish_seen_subcommand_from " + command.name, option);
  }
  return text;
}

}  // namespace nibblecast
