#include <fmt/format.h>

#include <memory>

#include "base/error.h"
#include "cli/activations.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "cli/job_options.h"
#include "cli/job_run.h"
#include "cli/progress.h"
#include "cli/reply.h"
#include "cli/require.h"
#include "cli/run_summary.h"
#include "cli/source.h"
#include "cli/summary.h"
#include "cli/text.h"
#include "pipeline/output.h"

namespace nibblecast {
namespace {

struct CalibrateArguments {
  std::string source, output;
  ActivationOptions activations;
  JobOptions job;
  QuantizeOptions options;
  Conditions conditions;
};

Json document_of(const CalibrateArguments& arguments, const Workload& workload, const RunRecord& record) {
  Json layers = Json::array();
  for (const LayerAmax& layer : record.layers) {
    layers.push_back(
        {{"layer", layer.layer}, {"experts_without_tokens", record.without_tokens[layer.layer]}});
  }
  return {{"source", {{"path", arguments.source}}},
          {"destination", arguments.output},
          {"finished", true},
          {"activations",
           {{"kind", "calibration"},
            {"origin", arguments.activations.calib},
            {"rows", workload.rows},
            {"tokens", workload.tokens},
            {"longest_row", workload.longest_row}}},
          {"layers", std::move(layers)},
          {"seconds", record.seconds},
          {"bytes", {{"read", record.read_bytes}, {"written", record.written_bytes}}},
          {"peak_memory_bytes", peak_resident_bytes()},
          {"device", device_use_json(record)},
          {"perplexity", perplexity_document(record)}};
}

int say_finished(const Checkpoint& source, const Plan& plan, const Conditions& conditions,
                 const std::string& output, bool json) {
  if (json)
    set_reply({{"destination", output}, {"finished", true}});
  else
    print_data(summary_line("output", output + ": this calibration's finished amax file; nothing to do"));
  RunRecord record;
  record.layers = read_amax(source.files(), output).layers;
  return report_unmet(unmet(conditions, plan, record));
}

int run(const CalibrateArguments& arguments, const CommonOptions& common) {
  ProgressPrinter printer(common.quiet);
  printer.say("reading the headers of " + arguments.source);
  const Checkpoint source = open_source(arguments.source);
  check_amax_output(arguments.output, arguments.activations, arguments.options, source);
  const Plan plan = make_plan(source, arguments.options);
  const ChosenDevice device = choose_device(common);
  printer.say("reading the calibration texts");
  const Activations activations =
      load_activations(arguments.activations, source, plan, device.forward, common.memory_limit());
  const bool whole = require_own_amax(arguments.output, source, plan, *activations.rows);
  const Conditions conditions = with_strict(arguments.conditions, arguments.job.strict, plan);
  Preflight found = preflight_calibration(source, plan, activations, arguments.output, arguments.job,
                                          means_of(common, device, plan, source.files()));
  refuse_unmet(arguments.conditions, source, plan, activations, found.findings);
  if (report_findings(found.findings)) return static_cast<int>(ErrorKind::kRefused);
  if (whole && !source.files().status(calibration_job_folder(arguments.output))) {
    check_perplexity(find_perplexity(read_amax(source.files(), arguments.output).metadata),
                     arguments.job.max_perplexity);
    return say_finished(source, plan, conditions, arguments.output, common.json);
  }
  const InterruptWatch watch(kResumeHint);
  Job job = Job::open(source.files(), calibration_job_folder(arguments.output), arguments.job.work_folder,
                      found.job);
  report_resumption(job, common.quiet);
  printer.begin(found.probed());
  const RunRecord record = ending_noted(job, [&] {
    return calibrate(source, plan, activations, job,
                     {.read_memory_bytes = found.memory.read_bytes,
                      .read_threads = found.read_threads(),
                      .device = found.device,
                      .amax_output = arguments.output,
                      .checkpoint_every = found.checkpoint_every,
                      .max_perplexity = arguments.job.max_perplexity,
                      .allow_nonfinite = arguments.job.allow_nonfinite,
                      .progress = progress_to(printer, watch)});
  });
  job.close();
  printer.end();
  for (const std::string& note : record.notes) print_warning(note);
  const RunOutcome outcome{.source = source,
                           .plan = plan,
                           .activations = activations,
                           .record = record,
                           .job = job,
                           .source_path = arguments.source,
                           .output = arguments.output,
                           .warnings = warning_texts(found.findings)};
  if (common.json) {
    Json document = document_of(arguments, found.workload, record);
    document.update(outcome_json(outcome));
    set_reply(std::move(document));
  } else {
    print_data(calibration_text(outcome));
  }
  return report_unmet(unmet(conditions, plan, record));
}

}  // namespace

void add_calibrate(CLI::App& app, CommonOptions& common, Action& action) {
  const auto arguments = std::make_shared<CalibrateArguments>();
  arguments->options.engines.clear();  // no output that one would load
  CLI::App& command =
      add_command(app, "calibrate", "Measures activations: calibration only, for quantize --amax.",
                  "nibblecast calibrate V4-Flash --calib texts.jsonl -o amax.safetensors");
  add_path(command, "SRC", arguments->source, "", "checkpoint folder or hf://OWNER/NAME")->required();
  add_rows_options(command, arguments->activations);
  command.get_option("--calib")->required();
  add_path(command, "-o,--output", arguments->output, "FILE", "the amax file, written after every layer")
      ->required();
  add_compute_dtype(command, arguments->options.compute_dtype);
  command.add_flag("--second-moments", arguments->options.second_moments,
                   "measure the mean square of every channel too: for --weight-method wmse");
  add_job_options(command, arguments->job);
  add_keep_source(command);
  add_require(command, arguments->conditions, kCalibrationConditions);
  add_threads_options(command, common);
  add_memory_option(command, common);
  add_device_options(command, common);
  add_common_options(command, common);
  command.callback(
      [arguments, &common, &action] { action = [arguments, &common] { return run(*arguments, common); }; });
}

}  // namespace nibblecast
