#include "plan/convert.h"

#include <memory>

#include "cli/commands.h"
#include "cli/plan_run.h"
#include "cli/source.h"

namespace nibblecast {

void add_convert(CLI::App& app, CommonOptions& common, Action& action) {
  const auto arguments = std::make_shared<PlanRunArguments>();
  CLI::App& command =
      add_command(app, "convert", "Makes DST of SRC with NVFP4 experts back in MXFP4, exactly or not at all.",
                  "nibblecast convert V4-Flash-NVFP4 V4-Flash --to mxfp4");
  command
      .add_option_function<std::string>(
          "--to",
          [](const std::string& text) {
            if (text != "mxfp4")
              throw CLI::ValidationError("--to", "unknown value '" + text + "' (expected mxfp4)");
          },
          "mxfp4: what releases have")
      ->option_text("F")
      ->required();
  add_plan_run_options(command, *arguments, common);
  command.callback([arguments, &common, &action] {
    action = [arguments, &common] {
      const Checkpoint source = open_source(arguments->source);
      return run_plan(source, make_convert_plan(source), *arguments, common);
    };
  });
}

}  // namespace nibblecast
