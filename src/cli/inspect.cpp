#include <memory>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/inspect_parts.h"
#include "cli/reply.h"

namespace nibblecast {
namespace {

struct InspectArguments {
  std::string path, tensor;
};

Shown show(const InspectArguments& arguments) {
  const StoredFiles stored = StoredFiles::open(arguments.path);
  if (!arguments.tensor.empty()) return show_tensor(stored, arguments.tensor);
  const auto format = stored.metadata().find("format");
  if (format != stored.metadata().end() && format->second == kAmaxFormat) {
    return show_amax(arguments.path, read_amax(system_files(), arguments.path));
  }
  return show_checkpoint(arguments.path, stored);
}

int run(const InspectArguments& arguments, const CommonOptions& common) {
  const Shown shown = show(arguments);
  if (common.json)
    set_reply(shown.json);
  else
    print_data(shown.text);
  return 0;
}

}  // namespace

void add_inspect(CLI::App& app, CommonOptions& common, Action& action) {
  const auto arguments = std::make_shared<InspectArguments>();
  CLI::App& command = add_command(app, "inspect", "Says what is in a checkpoint, a tensor or an amax file.",
                                  "nibblecast inspect V4-Flash --tensor layers.3.ffn.experts.0.w1");
  add_path(command, "PATH", arguments->path, "",
           "checkpoint folder, hf://OWNER/NAME, safetensors or amax file")
      ->required();
  add_text(command, "--tensor", arguments->tensor, "NAME",
           "one tensor, or a module's weight with its scales");
  add_common_options(command, common);
  command.callback(
      [arguments, &common, &action] { action = [arguments, &common] { return run(*arguments, common); }; });
}

}  // namespace nibblecast
