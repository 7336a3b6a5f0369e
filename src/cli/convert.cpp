#include "plan/convert.h"

#include <memory>
#include <optional>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/plan_run.h"
#include "cli/source.h"
#include "plan/retarget.h"

namespace nibblecast {
namespace {

struct ConvertArguments {
  PlanRunArguments run;
  bool to_mxfp4 = false;
  std::optional<OutputFormat> format;
};

int run(const ConvertArguments& arguments, const CommonOptions& common) {
  if (arguments.to_mxfp4 == arguments.format.has_value()) {
    throw Error(ErrorKind::kUsage, {}, "one of --to and --format is required",
                {.hint = "see nibblecast convert --help"});
  }
  const Checkpoint source = open_source(arguments.run.source);
  const Plan plan =
      arguments.format ? make_retarget_plan(source, *arguments.format) : make_convert_plan(source);
  return run_plan(source, plan, arguments.run, common);
}

}  // namespace

void add_convert(CLI::App& app, CommonOptions& common, Action& action) {
  const auto arguments = std::make_shared<ConvertArguments>();
  CLI::App& command = add_command(
      app, "convert",
      "Makes DST of SRC: NVFP4 experts back in MXFP4, or NVFP4 in another dialect.",
      "nibblecast convert Qwen3-8B-NVFP4 OUT --format compressed-tensors");
  command
      .add_option_function<std::string>(
          "--to",
          [arguments](const std::string& text) {
            if (text != "mxfp4")
              throw CLI::ValidationError("--to", "unknown value '" + text + "' (expected mxfp4)");
            arguments->to_mxfp4 = true;
          },
          "mxfp4: what releases have")
      ->option_text("F");
  command
      .add_option_function<std::string>(
          "--format",
          [arguments](const std::string& text) {
            arguments->format = parse_retarget("convert " + text);
            if (!arguments->format)
              throw CLI::ValidationError(
                  "--format", "unknown value '" + text + "' (expected modelopt or compressed-tensors)");
          },
          "modelopt|compressed-tensors; codes and block scales stay")
      ->option_text("F");
  add_plan_run_options(command, arguments->run, common);
  command.callback(
      [arguments, &common, &action] { action = [arguments, &common] { return run(*arguments, common); }; });
}

}  // namespace nibblecast
