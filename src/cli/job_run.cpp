#include "cli/job_run.h"

#include <fmt/format.h>

#include <set>

#include "cli/console.h"
#include "cli/text.h"
#include "pipeline/output.h"
#include "pipeline/saved_rows.h"
#include "plan/recipe.h"

namespace nibblecast {
namespace {

// Of the recipe's rules, where they all have one.
std::string recipe_methods(FileSystem& files, const QuantizeOptions& options) {
  const Recipe recipe = options.recipe_text.empty() ? load_recipe(files, options.recipe)
                                                    : recipe_of_file(options.recipe_text, options.recipe);
  std::set<std::string> methods;
  for (const RecipeRule& rule : recipe.rules) {
    if (rule.format == WeightFormat::kNvfp4) methods.emplace(recipe_method_name(rule.method));
  }
  return methods.size() == 1 ? *methods.begin() : "the recipe's";
}

}  // namespace

void describe_command(const CommonOptions& common, const Plan& plan, FileSystem& files, JobDescription& job) {
  job.command = common.command_line.record;
  job.options = common.command_line.options;
  const auto method = job.options.find("--weight-method");
  if (method == job.options.end() || plan.options.weight_method) return;
  *method = recipe_methods(files, plan.options);
}

Activations saved_activations(FileSystem& files, const std::filesystem::path& folder,
                              const ForwardDevice& device) {
  const std::optional<JobDocument> job = read_job_document(files, folder);
  std::optional<CalibrationRows> rows = job ? load_rows(files, folder) : std::nullopt;
  if (!rows) {
    throw Error(ErrorKind::kRefused, {.file = folder.parent_path().string()},
                "holds no finished calibration to export from",
                {.hint = "run without --export-only, or give --amax FILE"});
  }
  Activations activations =
      Activations::from_rows(std::move(*rows), job->description.options.value("--calib", ""));
  if (device.cuda) activations.products = device_identity(device);
  return activations;
}

void report_resumption(Job& job, bool quiet) {
  if (quiet || !job.resumed()) return;
  const JobState& state = job.state();
  std::string text = fmt::format("resuming (attempt {}): {} tensors, {}, are done", state.attempts.size(),
                                 grouped(state.tensors.size()), size_text(state.durable_bytes));
  if (!state.layers.empty()) text += fmt::format("; {} layers are calibrated", state.layers.size());
  if (state.streams) text += fmt::format(", the state after layer {} is saved", state.streams->layer - 1);
  print_line(text);
}

RunRecord make_output(const OutputRun& run, RunOptions options, const InterruptWatch& watch,
                      ProgressPrinter& printer) {
  options.progress = progress_to(printer, watch);
  RunRecord record = ending_noted(run.job, [&] {
    RunRecord made = quantize(run.source, run.plan, run.activations, run.job, run.destination, options);
    printer.say("naming the shards, writing the documents");
    finish_output(run.source, run.plan, run.activations, made, run.job, run.destination, run.base_model);
    return made;
  });
  printer.end();
  for (const std::string& note : record.notes) print_warning(note);
  return record;
}

}  // namespace nibblecast
