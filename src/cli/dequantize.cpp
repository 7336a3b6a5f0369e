#include "plan/dequantize.h"

#include <memory>

#include "cli/commands.h"
#include "cli/plan_run.h"
#include "cli/source.h"

namespace nibblecast {
namespace {

struct DequantizeArguments {
  PlanRunArguments run;
  DequantizeOptions options;
};

int run(const DequantizeArguments& arguments, const CommonOptions& common) {
  const Checkpoint source = open_source(arguments.run.source);
  return run_plan(source, make_dequantize_plan(source, arguments.options), arguments.run, common);
}

Dtype parse_wide_dtype(const std::string& text) {
  if (text == "bfloat16") return Dtype::kBF16;
  if (text == "float32") return Dtype::kF32;
  throw CLI::ValidationError("--dtype", "unknown value '" + text + "' (expected bfloat16 or float32)");
}

TensorNames parse_names(const std::string& text) {
  if (text == "official") return TensorNames::kOfficial;
  if (text == "transformers") return TensorNames::kTransformers;
  throw CLI::ValidationError("--names", "unknown value '" + text + "' (expected official or transformers)");
}

}  // namespace

void add_dequantize(CLI::App& app, CommonOptions& common, Action& action) {
  const auto arguments = std::make_shared<DequantizeArguments>();
  CLI::App& command = add_command(app, "dequantize", "Makes DST of SRC with every weight as BF16 or F32.",
                                  "nibblecast dequantize V4-Flash V4-Flash-BF16");
  command
      .add_option_function<std::string>(
          "--dtype",
          [arguments](const std::string& text) { arguments->options.dtype = parse_wide_dtype(text); },
          "bfloat16|float32, of every weight (default bfloat16)")
      ->option_text("D");
  command
      .add_option_function<std::string>(
          "--names", [arguments](const std::string& text) { arguments->options.names = parse_names(text); },
          "official|transformers, of tensors (default official)")
      ->option_text("N");
  add_plan_run_options(command, arguments->run, common);
  command.callback(
      [arguments, &common, &action] { action = [arguments, &common] { return run(*arguments, common); }; });
}

}  // namespace nibblecast
