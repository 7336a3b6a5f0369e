#include "cli/command_line.h"

#include <fmt/format.h>

#include <filesystem>
#include <string>
#include <utility>

#include "base/shell.h"

namespace nibblecast {
namespace {

// What decides an output's bytes where it is not given, as the help says.
constexpr std::pair<const char*, const char*> kDefaults[] = {
    {"--recipe", "auto"},
    {"--weight-method", "the recipe's"},
    {"--kv-cache", "the recipe's"},
    {"--compute-dtype", "bfloat16"},
    {"--input-scale", "layer"},
    {"--w2-input", "max"},
    {"--negative-zero", "keep"},
    {"--calib-size", "128"},
    {"--calib-seq", "512"},
    {"--calib-rows", "docs"},
    {"--bos", "auto"},
    {"--device", "auto"},
    {"--cpu-isa", "auto"},
    {"--dtype", "bfloat16"},
    {"--names", "official"},
};

// A value need not be UTF-8; for messages its quoted form will do.
std::string value_text(const CLI::Option& option) {
  const std::string text = fmt::format("{}", fmt::join(option.results(), ","));
  return is_utf8(text) ? text : shell_word(text);
}

}  // namespace

CommandLine command_line_of(int argc, const char* const* argv, const CLI::App& command) {
  CommandLine line;
  line.record.arguments.assign(argv + 1, argv + argc);
  std::error_code ignored;
  line.record.folder = std::filesystem::current_path(ignored).string();
  line.options["command"] = command.get_name();
  for (const CLI::Option* option : command.get_options()) {
    if (!option->get_positional() && option->count() > 0)
      line.options[option->get_name()] = value_text(*option);
  }
  for (const auto& [name, value] : kDefaults) {
    if (command.get_option_no_throw(name) != nullptr && !line.options.contains(name))
      line.options[name] = value;
  }
  return line;
}

}  // namespace nibblecast
