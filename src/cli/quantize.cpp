#include <fmt/format.h>

#include <memory>

#include "base/error.h"
#include "cli/activations.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/source.h"
#include "cli/summary.h"
#include "cli/text.h"
#include "pipeline/destination.h"
#include "pipeline/output.h"

namespace nibblecast {
namespace {

struct Arguments {
  std::string source, destination, amax_output;
  ActivationOptions activations;
  QuantizeOptions options;
};

// Everything that can be known to fail is found here, before anything is written. Whether the job may run.
bool check(const Checkpoint& source, const Plan& plan, const MemoryCost& memory, const std::string& identity,
           const std::filesystem::path& destination, uint64_t memory_limit) {
  FileSystem& files = source.files();
  check_destination(files, source.folder(), destination, identity);
  std::vector<Finding> findings = plan.findings;
  for (Finding& finding : check_memory(memory, memory_limit)) findings.push_back(std::move(finding));
  const uint64_t free = files.free_bytes(destination) + folder_bytes(destination);
  for (Finding& finding : check_disk(disk_need(source, plan), free, destination))
    findings.push_back(std::move(finding));
  return !report_findings(findings);
}

void print_summary(const Checkpoint& source, const Plan& plan, const Activations& activations,
                   const RunRecord& record, const Arguments& arguments, bool json) {
  if (json) {
    Json document = run_document(source, plan, activations, record);
    // The texts that make nibblecast.json a full record are no answer.
    for (const char* text : {"config", "index", "shards"}) document["source"].erase(text);
    document["destination"] = arguments.destination;
    document["peak_memory_bytes"] = peak_resident_bytes();
    print_json(document);
    return;
  }
  print_data(
      summary_line("output", fmt::format("{}: {} tensors, {} bytes in {} shards", arguments.destination,
                                         grouped(plan.tensors.size()), grouped(plan.output_bytes),
                                         plan.shards.size())) +
      blocks_text(record) + coverage_text(record, plan.model.n_routed_experts) + speed_text(record) +
      summary_line("next", fmt::format("nibblecast verify {} {}", arguments.source, arguments.destination)));
}

int run(const Arguments& arguments, const CommonOptions& common) {
  require_one_origin(arguments.activations);
  const Checkpoint source = open_source(arguments.source);
  if (!arguments.amax_output.empty()) {
    if (lies_in(arguments.amax_output, arguments.destination)) {
      throw Error(ErrorKind::kUsage, {.file = arguments.amax_output}, "lies in the destination",
                  {.hint = "the output holds calibration/amax.safetensors anyway"});
    }
    check_amax_output(arguments.amax_output, source);
  }
  const Plan plan = make_plan(source, arguments.options);
  const Activations activations = load_activations(arguments.activations, source, plan);
  const uint64_t memory_limit = common.memory_limit();
  const MemoryCost memory = memory_cost(source, plan, workload_of(activations), common.threads, memory_limit);
  const std::string identity = plan_identity(plan, source, activations.identity);
  if (!check(source, plan, memory, identity, arguments.destination, memory_limit)) {
    return static_cast<int>(ErrorKind::kRefused);
  }
  RunRecord record;
  {
    const InterruptWatch watch;
    ProgressPrinter printer(common.quiet);
    open_destination(source.files(), source.folder(), arguments.destination, identity);
    record = quantize(
        source, plan, activations, arguments.destination,
        {.read_memory_bytes = memory.read_bytes,
         .write_memory_bytes = memory.write_bytes,
         .amax_output = arguments.amax_output,
         .progress = progress_to(printer, "the destination is unfinished; the same command starts again")});
    finish_output(source, plan, activations, record, arguments.destination);
  }
  print_summary(source, plan, activations, record, arguments, common.json);
  return 0;
}

}  // namespace

void add_quantize(CLI::App& app, CommonOptions& common, Action& action) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command =
      add_command(app, "quantize", "Makes the NVFP4 checkpoint DST of the release SRC.",
                  "nibblecast quantize DeepSeek-V4-Flash DeepSeek-V4-Flash-NVFP4 --calib texts.jsonl");
  add_text(command, "SRC", arguments->source, "", "checkpoint folder; never written to")->required();
  add_text(command, "DST", arguments->destination, "",
           "new or empty folder, or where this job was interrupted")
      ->required();
  add_rows_options(command, arguments->activations);
  add_text(command, "--amax", arguments->activations.amax, "FILE",
           "instead of --calib: amax file; no forward pass");
  add_text(command, "--save-amax", arguments->amax_output, "FILE", "write the amax file after every layer")
      ->needs("--calib");
  add_quantize_options(command, arguments->options);
  add_threads_options(command, common);
  add_common_options(command, common);
  command.callback(
      [arguments, &common, &action] { action = [arguments, &common] { return run(*arguments, common); }; });
}

}  // namespace nibblecast
