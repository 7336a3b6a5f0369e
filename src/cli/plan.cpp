#include "plan/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "cli/activations.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/evaluation_run.h"
#include "cli/job_options.h"
#include "cli/plan_report.h"
#include "cli/reply.h"
#include "cli/source.h"
#include "cli/summary.h"
#include "model/family.h"
#include "plan/forward_plan.h"
#include "plan/recipe_modules.h"

namespace nibblecast {
namespace {

struct PlanArguments {
  std::string source, destination, explain;
  ActivationOptions activations;
  JobOptions job;
  QuantizeOptions options;
};

// --explain NAME: what becomes of one module, and by which rule.
int explain(const Checkpoint& source, const PlanArguments& arguments, bool json) {
  const std::string file = (source.folder() / "config.json").string();
  const Model model = read_model(source.config(), file);
  const std::vector<ResolvedModule> modules =
      resolve_modules(recipe_of(source.files(), resolved_options(arguments.options, model)), model.table,
                      tile_size(source.config(), file));
  const ResolvedModule* found = find_module(modules, arguments.explain);
  if (found == nullptr) {
    throw Error(ErrorKind::kUsage, {}, "no module is called '" + arguments.explain + "'",
                {.expected = "a name such as layers.3.attn.wq_b or model.layers.3.self_attn.q_b_proj",
                 .hint = "only modules with a weight matrix; everything else is kept"});
  }
  const ModuleRecipe& recipe = found->recipe;
  set_reply({{"module", found->module->name},
             {"hub_name", found->module->hub_name},
             {"weight_format", weight_format_name(recipe.format)},
             {"weight_method",
              recipe.format == WeightFormat::kNvfp4 ? Json(recipe_method_name(recipe.method)) : Json()},
             {"quantizes_input", recipe.quantize_input},
             {"rule", recipe.rule}});
  if (json) return 0;
  std::string text = summary_line("module", found->module->name) +
                     summary_line("on the Hub", found->module->hub_name) +
                     summary_line("format", std::string(weight_format_name(recipe.format)));
  if (recipe.format == WeightFormat::kNvfp4)
    text += summary_line("method", std::string(recipe_method_name(recipe.method)));
  text += summary_line("input", recipe.quantize_input ? "quantized: an input_scale is written" : "as it is");
  print_data(text + summary_line("by", recipe.rule));
  return 0;
}

// Nothing where no forward pass reads the model.
std::optional<uint64_t> evaluation_bytes(const Checkpoint& source, const Plan& plan,
                                         const CommonOptions& common, const ForwardDevice& device) {
  try {
    require_forward_storage(source, *plan.model);
    // The output is no larger.
    const EvaluatedModel model{&source, &plan, parse_input_scale_rule("calibrated")};
    return evaluation_peak_bytes({model, model}, kUsualEvaluation, common, device);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInternal) throw;
    return std::nullopt;
  }
}

int run(const PlanArguments& arguments, const CommonOptions& common) {
  const ActivationOptions& from = arguments.activations;
  require_one_origin(from);
  const Checkpoint source = open_source(arguments.source);
  if (!arguments.explain.empty()) return explain(source, arguments, common.json);
  const Plan plan = make_plan(source, arguments.options);
  const ChosenDevice device = choose_device(common);
  const Activations activations = load_activations(from, source, plan, device.forward, common.memory_limit());
  PlanReport report{.source = &source,
                    .plan = &plan,
                    .preflight = preflight(source, plan, activations, arguments.destination, arguments.job,
                                           means_of(common, device, plan, source.files()), true),
                    .device = device.text,
                    .seconds = {},
                    .calibration_seconds = {},
                    .breaches = {}};
  const Preflight& found = report.preflight;
  if (found.disk) report.seconds = estimated_seconds(plan, found.workload, *found.disk, found.compute);
  report.calibration_seconds = usual_calibration_seconds(plan, found);
  report.breaches = breaches_of(plan);
  report.evaluation_bytes = evaluation_bytes(source, plan, common, device.forward);
  if (common.json) {
    set_reply(plan_json(report));
    return report_findings(found.findings) ? static_cast<int>(ErrorKind::kRefused) : 0;
  }
  print_data(plan_text(report));
  if (!found.refused()) return 0;
  for (const Finding& finding : found.findings) {
    if (finding.severity == Severity::kRefusal)
      print_error(ErrorKind::kRefused, "refused: " + finding_text(finding));
  }
  return static_cast<int>(ErrorKind::kRefused);
}

}  // namespace

void add_plan(CLI::App& app, CommonOptions& common, Action& action) {
  const auto arguments = std::make_shared<PlanArguments>();
  CLI::App& command =
      add_command(app, "plan", "Says what quantize would make and what it takes, or why it would refuse.",
                  "nibblecast plan V4-Flash /data/V4-Flash-NVFP4 --calib texts.jsonl");
  add_path(command, "SRC", arguments->source, "",
           "checkpoint folder or hf://OWNER/NAME; headers, config and norms are read")
      ->required();
  add_path(command, "DST", arguments->destination, "", "where the output would be; default: beside SRC");
  add_rows_options(command, arguments->activations);
  add_path(command, "--amax", arguments->activations.amax, "FILE",
           "instead of --calib: amax file; no forward pass");
  add_text(command, "--explain", arguments->explain, "NAME",
           "one module: its format, and the rule that says so");
  add_quantize_options(command, arguments->options);
  add_job_options(command, arguments->job);
  add_threads_options(command, common);
  add_memory_option(command, common);
  add_device_options(command, common);
  add_common_options(command, common);
  command.callback(
      [arguments, &common, &action] { action = [arguments, &common] { return run(*arguments, common); }; });
}

}  // namespace nibblecast
