#include "cli/plan_run.h"

#include <fmt/format.h>

#include "base/error.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "cli/job_run.h"
#include "cli/progress.h"
#include "cli/reply.h"
#include "cli/run_summary.h"
#include "cli/source.h"
#include "cli/summary.h"
#include "cli/text.h"
#include "pipeline/destination.h"
#include "pipeline/output.h"

namespace nibblecast {
namespace {

int say_finished(const std::string& destination, bool json) {
  if (json)
    set_reply({{"destination", destination}, {"finished", true}});
  else
    print_data(summary_line("output", destination + ": this job's finished output; nothing to do"));
  return 0;
}

}  // namespace

void add_plan_run_options(CLI::App& app, PlanRunArguments& arguments, CommonOptions& common) {
  add_path(app, "SRC", arguments.source, "", "checkpoint folder or hf://OWNER/NAME; never written to")
      ->required();
  add_path(app, "DST", arguments.destination, "", "new or empty folder, or where this job was interrupted")
      ->required();
  add_base_model(app, arguments.base_model);
  add_work_options(app, arguments.job);
  add_keep_source(app);
  add_threads_options(app, common);
  add_memory_option(app, common);
  add_common_options(app, common);
}

int run_plan(const Checkpoint& source, const Plan& plan, const PlanRunArguments& arguments,
             const CommonOptions& common) {
  require_hub_id(arguments.base_model);
  const Activations none{.rows = {}, .amax = {}, .origin = "", .identity = "none", .products = ""};
  const Preflight found = preflight(source, plan, none, arguments.destination, arguments.job,
                                    means_of(common, {}, plan, source.files()), false);
  if (report_findings(found.findings)) return static_cast<int>(ErrorKind::kRefused);
  if (found.destination == DestinationState::kFinished) {
    clean_finished_destination(source.files(), arguments.destination);
    return say_finished(arguments.destination, common.json);
  }
  const InterruptWatch watch(kResumeHint);
  ProgressPrinter printer(common.quiet);
  Job job = open_destination(source, arguments.destination, arguments.job.work_folder, found.job, plan);
  report_resumption(job, common.quiet);
  printer.begin(found.probed());
  RunOptions options;
  options.read_memory_bytes = found.memory.read_bytes;
  options.write_memory_bytes = found.memory.write_bytes;
  options.allow_nonfinite = arguments.job.allow_nonfinite;
  const RunRecord record = make_output({source, plan, none, job, arguments.destination, arguments.base_model},
                                       options, watch, printer);
  print_outcome({.source = source,
                 .plan = plan,
                 .activations = none,
                 .record = record,
                 .job = job,
                 .source_path = arguments.source,
                 .output = arguments.destination,
                 .warnings = warning_texts(found.findings)},
                common.json);
  return 0;
}

}  // namespace nibblecast
