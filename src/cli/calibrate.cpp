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

namespace nibblecast {
namespace {

struct Arguments {
  std::string source, output;
  ActivationOptions activations;
  QuantizeOptions options;
};

Json document_of(const Arguments& arguments, const Workload& workload, const RunRecord& record) {
  Json layers = Json::array();
  for (const LayerAmax& layer : record.layers) {
    layers.push_back(
        {{"layer", layer.layer}, {"experts_without_tokens", record.without_tokens[layer.layer]}});
  }
  return {{"output", arguments.output},      {"rows", workload.rows},
          {"tokens", workload.tokens},       {"longest_row", workload.longest_row},
          {"layers", std::move(layers)},     {"seconds", record.seconds},
          {"read_bytes", record.read_bytes}, {"peak_memory_bytes", peak_resident_bytes()}};
}

int run(const Arguments& arguments, const CommonOptions& common) {
  const Checkpoint source = open_source(arguments.source);
  check_amax_output(arguments.output, source);
  const Plan plan = make_plan(source, arguments.options);
  const Activations activations = load_activations(arguments.activations, source, plan);
  const Workload workload = workload_of(activations);
  const uint64_t memory_limit = common.memory_limit();
  MemoryCost memory = memory_cost(source, plan, workload, common.threads, memory_limit);
  memory.write_bytes = 0;  // nothing but the amax file
  if (report_findings(check_memory(memory, memory_limit))) return static_cast<int>(ErrorKind::kRefused);
  RunRecord record;
  {
    const InterruptWatch watch;
    ProgressPrinter printer(common.quiet);
    record =
        calibrate(source, plan, activations,
                  {.read_memory_bytes = memory.read_bytes,
                   .amax_output = arguments.output,
                   .progress = progress_to(printer, "the amax file holds the layers that were finished")});
  }
  if (common.json) {
    print_json(document_of(arguments, workload, record));
    return 0;
  }
  print_data(
      summary_line("output", arguments.output) +
      summary_line("calibrated", fmt::format("{} layers on {} rows of {} tokens in all, the longest {}",
                                             record.layers.size(), grouped(workload.rows),
                                             grouped(workload.tokens), grouped(workload.longest_row))) +
      coverage_text(record, plan.model.n_routed_experts) + speed_text(record));
  return 0;
}

}  // namespace

void add_calibrate(CLI::App& app, CommonOptions& common, Action& action) {
  const auto arguments = std::make_shared<Arguments>();
  arguments->options.engines.clear();  // no output that one would load
  CLI::App& command =
      add_command(app, "calibrate", "Measures activations: calibration only, for quantize --amax.",
                  "nibblecast calibrate DeepSeek-V4-Flash --calib texts.jsonl -o amax.safetensors");
  add_text(command, "SRC", arguments->source, "", "checkpoint folder")->required();
  add_rows_options(command, arguments->activations);
  command.get_option("--calib")->required();
  add_text(command, "-o,--output", arguments->output, "FILE", "the amax file, written after every layer")
      ->required();
  add_compute_dtype(command, arguments->options);
  add_threads_options(command, common);
  add_common_options(command, common);
  command.callback(
      [arguments, &common, &action] { action = [arguments, &common] { return run(*arguments, common); }; });
}

}  // namespace nibblecast
