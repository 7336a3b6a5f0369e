#include "plan/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "base/error.h"
#include "cli/activations.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/plan_report.h"
#include "cli/source.h"
#include "pipeline/destination.h"

namespace nibblecast {
namespace {

struct Arguments {
  std::string source, destination;
  ActivationOptions activations;
  QuantizeOptions options;
};

void add(std::vector<Finding>& to, std::vector<Finding> findings) {
  std::move(findings.begin(), findings.end(), std::back_inserter(to));
}

void check_place(const Arguments& arguments, const std::string& activations, PlanReport& report) {
  FileSystem& files = report.source->files();
  report.disk_folder = arguments.destination;
  if (arguments.destination.empty()) {
    report.disk_folder = std::filesystem::weakly_canonical(arguments.source).parent_path();
  } else {
    try {
      check_destination(files, report.source->folder(), arguments.destination,
                        plan_identity(*report.plan, *report.source, activations));
      report.disk_free = folder_bytes(arguments.destination);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kRefused) throw;
      report.findings.push_back({.severity = Severity::kRefusal, .reason = error.what(), .remedy = ""});
    }
  }
  report.disk_need = disk_need(*report.source, *report.plan);
  report.disk_free += files.free_bytes(report.disk_folder);
  add(report.findings, check_disk(report.disk_need, report.disk_free, report.disk_folder));
}

void estimate(PlanReport& report) {
  report.disk = probe_disk(report.disk_folder);
  if (report.workload.tokens > 0)
    report.flops_per_second = probe_products(report.plan->options.compute_dtype);
  if (report.disk) {
    report.seconds = estimated_seconds(*report.plan, report.workload, *report.disk, report.flops_per_second);
  }
}

std::vector<Breach> breaches_of(const Plan& plan) {
  std::vector<Tensor> tensors;
  for (const PlannedTensor& tensor : plan.tensors) tensors.push_back(tensor.out);
  return check_engine_contracts(plan.config, plan.hf_quant_config, tensors);
}

int run(const Arguments& arguments, const CommonOptions& common) {
  const ActivationOptions& from = arguments.activations;
  if (!from.calib.empty() || !from.amax.empty()) require_one_origin(from);
  const Checkpoint source = open_source(arguments.source);
  const Plan plan = make_plan(source, arguments.options);
  PlanReport report;
  report.source = &source;
  report.plan = &plan;
  report.memory_limit = common.memory_limit();
  report.findings = plan.findings;
  Activations activations;
  if (!from.calib.empty() || !from.amax.empty()) activations = load_activations(from, source, plan);
  report.workload = workload_of(activations);
  report.memory = memory_cost(source, plan, report.workload, common.threads, report.memory_limit);
  add(report.findings, check_memory(report.memory, report.memory_limit));
  check_place(arguments, activations.identity, report);
  estimate(report);
  report.breaches = breaches_of(plan);
  if (common.json)
    print_json(plan_json(report));
  else
    print_data(plan_text(report));
  const auto refusal =
      std::find_if(report.findings.begin(), report.findings.end(),
                   [](const Finding& finding) { return finding.severity == Severity::kRefusal; });
  if (refusal == report.findings.end()) return 0;
  throw Error(ErrorKind::kRefused, {}, "refused: " + finding_text(*refusal));
}

}  // namespace

void add_plan(CLI::App& app, CommonOptions& common, Action& action) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command =
      add_command(app, "plan", "Says what quantize would make and what it takes, or why it would refuse.",
                  "nibblecast plan DeepSeek-V4-Flash /data/DeepSeek-V4-Flash-NVFP4 --calib texts.jsonl");
  add_text(command, "SRC", arguments->source, "", "checkpoint folder; headers, config and norms are read")
      ->required();
  add_text(command, "DST", arguments->destination, "", "where the output would be; default: beside SRC");
  add_rows_options(command, arguments->activations);
  add_text(command, "--amax", arguments->activations.amax, "FILE",
           "instead of --calib: amax file; no forward pass");
  add_quantize_options(command, arguments->options);
  add_threads_options(command, common);
  add_common_options(command, common);
  command.callback(
      [arguments, &common, &action] { action = [arguments, &common] { return run(*arguments, common); }; });
}

}  // namespace nibblecast
