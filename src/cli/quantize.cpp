#include <fmt/format.h>

#include <memory>

#include "base/error.h"
#include "checkpoint/run_record.h"
#include "cli/activations.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/evaluation_run.h"
#include "cli/interrupt.h"
#include "cli/job_folder.h"
#include "cli/job_options.h"
#include "cli/job_run.h"
#include "cli/progress.h"
#include "cli/reply.h"
#include "cli/require.h"
#include "cli/run_summary.h"
#include "cli/source.h"
#include "cli/summary.h"
#include "cli/text.h"
#include "pipeline/destination.h"
#include "pipeline/output.h"
#include "pipeline/recorded_evaluation.h"
#include "pipeline/report.h"
#include "pipeline/saved_rows.h"
#include "pipeline/verify_checksums.h"

namespace nibblecast {
namespace {

struct QuantizeArguments {
  std::string source, destination, amax_output, base_model;
  ActivationOptions activations;
  JobOptions job;
  QuantizeOptions options;
  Conditions conditions;
  EvaluationArguments evaluation{"--evaluate"};
  bool export_only = false, validate_only = false;
};

// What --export-only promises: no forward pass.
void require_calibrated(const Checkpoint& source, const Plan& plan, const QuantizeArguments& arguments) {
  if (!arguments.activations.amax.empty() || !plan.needs_activations()) return;
  const auto job = read_job(source.files(), std::filesystem::path(arguments.destination) / kJobFolder);
  if (job && job->state.layers.size() == plan.layers() && job->state.perplexity) return;
  throw Error(ErrorKind::kRefused, {.file = arguments.destination},
              "holds no finished calibration to export from",
              {.expected = fmt::format("{} layers and the head", plan.layers()),
               .found = fmt::format("{} layers", job ? job->state.layers.size() : 0),
               .hint = "run without --export-only, or give --amax FILE"});
}

// --validate-only: the preflight was passed; is what there is of the output right?
int validate(const Checkpoint& source, const Plan& plan, DestinationState state,
             const QuantizeArguments& arguments, const CommonOptions& common) {
  if (state == DestinationState::kNew) {
    if (common.json)
      set_reply({{"destination", arguments.destination}, {"state", "new"}});
    else
      print_data(summary_line("state", "new; nothing stands in the job's way"));
    return 0;
  }
  const bool finished = state == DestinationState::kFinished;
  ChecksumReport report;
  {
    const InterruptWatch watch("");
    ProgressPrinter printer(common.quiet);
    const VerifyOptions options{.engines = {}, .progress = progress_to(printer, watch)};
    if (finished) {
      report = verify_checksums(source.files(), arguments.destination, options);
    } else {
      const auto job = read_job(source.files(), std::filesystem::path(arguments.destination) / kJobFolder);
      report = verify_durable(source.files(), plan, job->state, arguments.destination, options);
    }
  }
  print_checksums(report, finished ? "finished" : "unfinished", common.json);
  return report.ok() ? 0 : static_cast<int>(ErrorKind::kVerifyFailed);
}

// A finished output is not looked into, but that its shards are there costs nothing to see.
int say_finished(const Checkpoint& source, const Plan& plan, const QuantizeArguments& arguments, bool json) {
  for (const PlannedShard& shard : plan.shards) {
    const std::filesystem::path path = std::filesystem::path(arguments.destination) / shard.name;
    const auto status = source.files().status(path);
    if (status && status->size_bytes == shard.size_bytes) continue;
    throw Error(ErrorKind::kRefused, {.file = path.string()},
                "is missing or cut, though this job's output was finished",
                {.hint = "restore it, or remove " + arguments.destination + " to make everything again"});
  }
  if (json)
    set_reply({{"destination", arguments.destination}, {"finished", true}});
  else
    print_data(summary_line("output", arguments.destination + ": this job's finished output; nothing to do"));
  return 0;
}

// Of a finished output.
std::optional<Perplexity> measured_perplexity(const Checkpoint& source, const QuantizeArguments& arguments) {
  const auto amax = std::filesystem::path(arguments.destination) / "calibration/amax.safetensors";
  if (!source.files().status(amax)) return std::nullopt;
  return find_perplexity(read_amax(source.files(), amax).metadata);
}

// What --export-only goes on with where neither texts nor an amax file are named: what DST's job has
// measured.
bool is_from_job(const Checkpoint& source, const Plan& plan, const QuantizeArguments& arguments) {
  return arguments.export_only && arguments.activations.calib.empty() && arguments.activations.amax.empty() &&
         plan.needs_activations() && !is_finished(source.files(), arguments.destination);
}

Activations find_activations(const Checkpoint& source, const Plan& plan, const QuantizeArguments& arguments,
                             const CommonOptions& common, const ForwardDevice& device,
                             ProgressPrinter& printer) {
  printer.say("reading " +
              (arguments.activations.amax.empty() ? "the calibration texts" : arguments.activations.amax));
  if (is_from_job(source, plan, arguments))
    return saved_activations(source.files(), std::filesystem::path(arguments.destination) / kJobFolder,
                             device);
  Activations activations =
      load_activations(arguments.activations, source, plan, device, common.memory_limit());
  if (activations.amax)
    check_perplexity(find_perplexity(activations.amax->metadata), arguments.job.max_perplexity);
  if (!arguments.amax_output.empty())
    require_own_amax(arguments.amax_output, source, plan, *activations.rows);
  return activations;
}

RunOptions run_options(const QuantizeArguments& arguments, const Preflight& found) {
  return {.read_memory_bytes = found.memory.read_bytes,
          .write_memory_bytes = found.memory.write_bytes,
          .read_threads = found.read_threads(),
          .device = found.device,
          .amax_output = arguments.amax_output,
          .checkpoint_every = found.checkpoint_every,
          .max_perplexity = arguments.job.max_perplexity,
          .allow_nonfinite = arguments.job.allow_nonfinite,
          .progress = {}};
}

// --evaluate: what is known of it before the run.
struct PlannedEvaluation {
  EvaluationArguments how;
  CalibrationRows rows;
};

// What stands in its way is to be known before the run, not behind it: texts, and memory for two models (the
// source twice: its output is smaller). Nothing where none is asked for.
std::optional<PlannedEvaluation> plan_evaluation(const Checkpoint& source, const Plan& plan,
                                                 const QuantizeArguments& arguments,
                                                 const CommonOptions& common, const ForwardDevice& device) {
  EvaluationArguments how = arguments.evaluation;
  if (how.text.calib.empty()) return std::nullopt;
  how.compute_dtype = arguments.options.compute_dtype;
  how.text.rows.bos = arguments.activations.rows.bos;
  CalibrationRows rows = load_rows(how.text, source, plan.model->vocabulary, common.memory_limit());
  const OpenModels models(source, how);  // not kept: the run has no memory for it
  const EvaluatedModel model = models.models().front();
  evaluation_options({model, model}, rows, common, device);
  for (const std::string& warning : rows.warnings) print_warning(warning);
  return PlannedEvaluation{std::move(how), std::move(rows)};
}

// Where the streams of both go between two layers. In DST it is known by its name for what a run has left
// that has not finished.
std::filesystem::path evaluation_folder(const QuantizeArguments& arguments) {
  const std::filesystem::path work = arguments.job.work_folder, output = arguments.destination;
  return work.empty() ? output / ".evaluation.partial" : work / "evaluation";
}

// Source and output in step; what it finds goes into the output's documents. Null where nothing is asked.
Json evaluate_output(const Checkpoint& source, const QuantizeArguments& arguments,
                     const std::optional<PlannedEvaluation>& planned, const CommonOptions& common,
                     const ForwardDevice& device) {
  if (!planned) return {};
  OpenModels models(source, planned->how);
  models.add(arguments.destination);
  EvaluationOptions options = evaluation_options(models.models(), planned->rows, common, device);
  options.state_folder = evaluation_folder(arguments);
  options.identity = evaluation_identity(models.models(), planned->rows, planned->how, device);
  const Evaluation evaluation = run_evaluation(models.models(), planned->rows, options, common);
  const EvaluationOutcome outcome{.evaluation = evaluation,
                                  .rows = planned->rows,
                                  .paths = {arguments.source, arguments.destination},
                                  .identities = models.identities(),
                                  .texts = models.token_texts()};
  Json document = evaluation_document(outcome, planned->how);
  if (!record_evaluation(system_files(), arguments.destination, document))
    print_warning(arguments.destination +
                  "/README.md was edited, and does not say what the evaluation found");
  system_files().remove(options.state_folder);
  if (!common.json) print_data(evaluation_text(outcome));
  return document;
}

void write_output_report(const std::string& destination, const Json& evaluation) {
  FileSystem& files = system_files();
  write_report_or_warn(files, std::filesystem::path(destination) / kReportPageName,
                       [&] { return read_report_input(files, destination, evaluation); });
}

// Nothing is left to do: what the output's own record says is held against what is asked.
int answer_finished(const Checkpoint& source, const Plan& plan, const QuantizeArguments& arguments,
                    const Conditions& conditions, bool json) {
  clean_finished_destination(source.files(), arguments.destination);
  if (arguments.job.max_perplexity)
    check_perplexity(measured_perplexity(source, arguments), arguments.job.max_perplexity);
  const int said = say_finished(source, plan, arguments, json);
  if (conditions.empty()) return said;
  return report_unmet(unmet(conditions, plan, recorded_run(source.files(), arguments.destination)));
}

// What a run that was killed behind its output has left undone.
void finish_late(const Checkpoint& source, const QuantizeArguments& arguments,
                 const std::optional<PlannedEvaluation>& evaluation, const CommonOptions& common,
                 const ForwardDevice& device) {
  FileSystem& files = system_files();
  const std::filesystem::path output = arguments.destination;
  const bool evaluates = evaluation && at_or_null(read_run_record(files, output), "evaluation").is_null();
  if (!evaluates && files.status(evaluation_folder(arguments))) files.remove(evaluation_folder(arguments));
  const Json found = evaluates ? evaluate_output(source, arguments, evaluation, common, device) : Json();
  if (evaluates || !files.status(output / kReportPageName)) write_output_report(arguments.destination, found);
}

void require_amax_output(const QuantizeArguments& arguments, const Checkpoint& source) {
  if (arguments.amax_output.empty()) return;
  if (lies_in(source.files(), arguments.amax_output, arguments.destination)) {
    throw Error(ErrorKind::kUsage, {.file = arguments.amax_output}, "lies in the destination",
                {.hint = "the output holds calibration/amax.safetensors anyway"});
  }
  check_amax_output(arguments.amax_output, arguments.activations, arguments.options, source);
}

// What was made, and what was lost, for who asked.
void answer_made(const RunOutcome& outcome, const QuantizeArguments& arguments,
                 const std::optional<PlannedEvaluation>& evaluated, const CommonOptions& common,
                 const ForwardDevice& device) {
  if (!common.json) print_data(run_text(outcome));
  Json evaluation = evaluate_output(outcome.source, arguments, evaluated, common, device);
  write_output_report(arguments.destination, evaluation);
  if (!common.json) return;
  Json reply = run_json(outcome);
  if (!evaluation.is_null()) reply["evaluation"] = std::move(evaluation);
  set_reply(std::move(reply));
}

int run(const QuantizeArguments& arguments, const CommonOptions& common) {
  require_one_origin(arguments.activations);
  require_hub_id(arguments.base_model);
  ProgressPrinter printer(common.quiet);
  printer.say("reading the headers of " + arguments.source);
  const Checkpoint source = open_source(arguments.source);
  require_amax_output(arguments, source);
  printer.say("planning");
  const Plan plan = make_plan(source, arguments.options);
  if (!is_from_job(source, plan, arguments)) require_origin(arguments.activations, plan);
  const ChosenDevice device = choose_device(common);
  const Activations activations = find_activations(source, plan, arguments, common, device.forward, printer);
  printer.say("checking memory and disk");
  const std::optional<PlannedEvaluation> evaluated =
      plan_evaluation(source, plan, arguments, common, device.forward);
  Preflight found = preflight(source, plan, activations, arguments.destination, arguments.job,
                              means_of(common, device, plan, source.files()), false);
  const Conditions conditions = with_strict(arguments.conditions, arguments.job.strict, plan);
  refuse_unmet(arguments.conditions, source, plan, activations, found.findings);
  if (report_findings(found.findings)) return static_cast<int>(ErrorKind::kRefused);
  if (arguments.export_only && found.destination != DestinationState::kFinished)
    require_calibrated(source, plan, arguments);
  if (arguments.validate_only) return validate(source, plan, *found.destination, arguments, common);
  if (found.destination == DestinationState::kFinished) {
    const int said = answer_finished(source, plan, arguments, conditions, common.json);
    finish_late(source, arguments, evaluated, common, device.forward);
    return said;
  }
  const InterruptWatch watch(kResumeHint);
  Job job = open_destination(source, arguments.destination, arguments.job.work_folder, found.job, plan);
  report_resumption(job, common.quiet);
  if (activations.rows) save_rows(source.files(), job.folder(), *activations.rows);
  printer.begin(found.probed());
  const RunRecord record =
      make_output({source, plan, activations, job, arguments.destination, arguments.base_model},
                  run_options(arguments, found), watch, printer);
  const RunOutcome outcome{.source = source,
                           .plan = plan,
                           .activations = activations,
                           .record = record,
                           .job = job,
                           .source_path = arguments.source,
                           .output = arguments.destination,
                           .warnings = warning_texts(found.findings)};
  answer_made(outcome, arguments, evaluated, common, device.forward);
  return report_unmet(unmet(conditions, plan, record));
}

}  // namespace

void add_quantize(CLI::App& app, CommonOptions& common, Action& action) {
  const auto arguments = std::make_shared<QuantizeArguments>();
  CLI::App& command = add_command(app, "quantize", "Makes the NVFP4 checkpoint DST of the release SRC.",
                                  "nibblecast quantize V4-Flash V4-Flash-NVFP4 --calib texts.jsonl");
  add_path(command, "SRC", arguments->source, "", "checkpoint folder or hf://OWNER/NAME; never written to")
      ->required();
  add_path(command, "DST", arguments->destination, "",
           "new or empty folder, or where this job was interrupted")
      ->required();
  add_rows_options(command, arguments->activations);
  add_path(command, "--amax", arguments->activations.amax, "FILE",
           "instead of --calib: amax file; no forward pass");
  add_path(command, "--save-amax", arguments->amax_output, "FILE", "write the amax file after every layer")
      ->needs("--calib");
  add_quantize_options(command, arguments->options);
  add_base_model(command, arguments->base_model);
  add_job_options(command, arguments->job);
  add_keep_source(command);
  add_texts_options(command, arguments->evaluation.text, "texts: measure on them what was lost, afterwards");
  add_require(command, arguments->conditions, kAllConditions);
  command.add_flag("--export-only", arguments->export_only,
                   "no forward pass: --amax, or a finished calibration");
  command.add_flag("--validate-only", arguments->validate_only,
                   "checks everything, also what DST holds; no changes");
  add_threads_options(command, common);
  add_memory_option(command, common);
  add_device_options(command, common);
  add_common_options(command, common);
  command.callback(
      [arguments, &common, &action] { action = [arguments, &common] { return run(*arguments, common); }; });
}

}  // namespace nibblecast
