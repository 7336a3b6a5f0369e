#include <memory>

#include "base/build_info.h"
#include "cli/commands.h"
#include "cli/completion.h"
#include "cli/console.h"
#include "cli/manual.h"

namespace nibblecast {
namespace {

std::string generated(const std::string& what, const OptionTable& table) {
  if (what == "man") return manual_page(table, build_info().version);
  if (what == "bash") return bash_completion(table);
  if (what == "zsh") return zsh_completion(table);
  if (what == "fish") return fish_completion(table);
  throw CLI::ValidationError("WHAT", "unknown value '" + what + "' (expected man, bash, zsh or fish)");
}

}  // namespace

void add_generate(CLI::App& app, CommonOptions&, Action& action) {
  const auto text = std::make_shared<std::string>();
  CLI::App& command = add_command(app, "generate", "Prints the man page, or a shell's completions.",
                                  "nibblecast generate bash");
  command.group("");  // for packages
  const auto make = [&app, text](const std::string& what) { *text = generated(what, option_table(app)); };
  command.add_option_function<std::string>("WHAT", make, "man|bash|zsh|fish")->required();
  command.callback([text, &action] {
    action = [text] {
      print_data(*text);
      return 0;
    };
  });
}

}  // namespace nibblecast
