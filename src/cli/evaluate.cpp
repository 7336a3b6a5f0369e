#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "base/size_text.h"
#include "cli/activations.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/device.h"
#include "cli/evaluate_report.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/reply.h"
#include "cli/source.h"
#include "pipeline/evaluation.h"
#include "plan/cost.h"
#include "plan/forward_plan.h"

namespace nibblecast {
namespace {

// Enough that the standard error of a perplexity is a per cent or two, and as long as published figures'
// rows.
constexpr uint64_t kDefaultRows = 16, kDefaultLength = 2048;

struct EvaluateArguments {
  std::string source;
  std::vector<std::string> candidates;
  ActivationOptions text;
  QuantizeOptions options;   // of which the compute dtype counts
  bool round_inputs = true;  // --activations

  EvaluateArguments() {
    text.option = "--text";
    text.default_size = kDefaultRows;
    text.rows.length = kDefaultLength;
    text.rows.policy = RowsPolicy::kPacked;
  }
  std::vector<std::string> paths() const {
    std::vector<std::string> all = {source};
    all.insert(all.end(), candidates.begin(), candidates.end());
    return all;
  }
};

// The models as far as headers tell.
struct OpenModels {
  std::vector<Checkpoint> checkpoints;
  std::vector<Plan> plans;

  explicit OpenModels(const EvaluateArguments& arguments) {
    for (const std::string& path : arguments.paths()) checkpoints.push_back(open_source(path));
    for (const Checkpoint& checkpoint : checkpoints) {
      plans.push_back(make_forward_plan(checkpoint, arguments.options.compute_dtype));
      require_same_model(plans[0], plans.back(), checkpoint.folder().string());
    }
  }
  std::vector<EvaluatedModel> models() const {
    std::vector<EvaluatedModel> all;
    for (size_t index = 0; index < plans.size(); ++index) all.push_back({&checkpoints[index], &plans[index]});
    return all;
  }
};

void add_activations(CLI::App& command, bool& round_inputs) {
  const auto parse = [&round_inputs](const std::string& text) {
    if (text != "nvfp4" && text != "none")
      throw CLI::ValidationError("--activations", "unknown value '" + text + "' (expected nvfp4 or none)");
    round_inputs = text == "nvfp4";
  };
  command
      .add_option_function<std::string>("--activations", parse,
                                        "nvfp4|none: inputs of linears with an input_scale (nvfp4)")
      ->option_text("WORD");
}

// Shares memory and device out evenly. kRefused where there is too little.
class Shares {
 public:
  Shares(const OpenModels& models, const CalibrationRows& rows, const CommonOptions& common,
         const ForwardDevice& device, bool round_inputs)
      : models_(models), common_(common), limit_(common.memory_limit()) {
    const size_t count = models.plans.size();
    const Workload workload{rows.ids.size(), rows.tokens(), rows.longest()};
    options_.device = device;
    options_.device.memory_bytes /= count;
    options_.round_inputs = round_inputs;
    const Model& model = *models.plans[0].model;
    peak_bytes_ = evaluation_memory_bytes(model, workload, count);
    if (round_inputs) reserve_for_inputs(rounded_inputs_bytes(model, workload), count);
    const uint64_t share = (limit_ - std::min(limit_, peak_bytes_)) / count;
    for (size_t index = 0; index < count; ++index) add(index, workload, share);
    if (peak_bytes_ <= limit_) return;
    throw Error(ErrorKind::kRefused, {},
                fmt::format("{} needs {} of memory and may use {}",
                            count == 1 ? "the model" : fmt::format("{} models at once", count),
                            size_text(peak_bytes_), size_text(limit_)),
                {.hint = "raise --memory, evaluate fewer checkpoints at once, or fewer or shorter rows "
                         "(--text-size, --text-seq)"});
  }

  const EvaluationOptions& options() const { return options_; }

 private:
  // Where the models compute: each on the device, or here.
  void reserve_for_inputs(uint64_t size_bytes, size_t models) {
    uint64_t& on_device = options_.device.memory_bytes;
    if (options_.device.cuda)
      on_device -= std::min(on_device, size_bytes);
    else
      peak_bytes_ += models * size_bytes;
  }

  void add(size_t index, const Workload& workload, uint64_t share) {
    const Plan& plan = models_.plans[index];
    const MemoryCost cost = memory_cost(models_.checkpoints[index], plan, workload, common_.threads, share,
                                        options_.device, false);
    peak_bytes_ += cost.peak_bytes() - (index == 0 ? 0 : cost.fixed_bytes);
    options_.read_memory_bytes =
        index == 0 ? cost.read_bytes : std::min(options_.read_memory_bytes, cost.read_bytes);
    if (!options_.device.cuda) return;
    check_device(cost);
    options_.device.expert_bytes = std::max(options_.device.expert_bytes, largest_expert_bytes(plan));
    options_.device.held_owners = cost.read_units - 1;
  }

  void check_device(const MemoryCost& cost) const {
    for (const Finding& finding : check_device_memory(cost.device, options_.device.memory_bytes))
      throw Error(ErrorKind::kRefused, {}, finding.reason, {.hint = finding.remedy});
  }

  const OpenModels& models_;
  const CommonOptions& common_;
  const uint64_t limit_;
  uint64_t peak_bytes_ = 0;
  EvaluationOptions options_;
};

int run(const EvaluateArguments& arguments, const CommonOptions& common) {
  ProgressPrinter printer(common.quiet);
  printer.say("reading the headers");
  const OpenModels models(arguments);
  const ChosenDevice device = choose_device(common);
  printer.say("reading the texts");
  const CalibrationRows rows = load_rows(arguments.text, models.checkpoints[0],
                                         models.plans[0].model->vocabulary, common.memory_limit());
  EvaluationOptions options = Shares(models, rows, common, device.forward, arguments.round_inputs).options();
  printer.end();
  for (const auto* warnings : {&device.warnings, &rows.warnings})
    for (const std::string& warning : *warnings) print_warning(warning);
  const InterruptWatch watch("");
  ProgressPrinter progress(common.quiet);
  progress.begin();
  options.progress = [&](const EvaluationProgress& done) {
    watch.check();
    progress.update(done.stage, done.bytes_done, done.bytes);
  };
  const Evaluation evaluation = evaluate(models.models(), rows, options);
  progress.end();
  const EvaluationOutcome outcome{.evaluation = evaluation, .rows = rows, .paths = arguments.paths()};
  if (common.json) {
    Json document = evaluation_json(outcome);
    document["activations"] = arguments.round_inputs ? "nvfp4" : "none";
    document["compute_dtype"] =
        arguments.options.compute_dtype == ComputeDtype::kBF16 ? "bfloat16" : "float32";
    set_reply(std::move(document));
  }
  if (!common.json) print_data(evaluation_text(outcome));
  return 0;
}

}  // namespace

void add_evaluate(CLI::App& app, CommonOptions& common, Action& action) {
  const auto arguments = std::make_shared<EvaluateArguments>();
  CLI::App& command =
      add_command(app, "evaluate", "Measures what checkpoints lost against their source, on texts.",
                  "nibblecast evaluate V4-Flash V4-Flash-NVFP4 --text texts.jsonl");
  add_path(command, "SRC", arguments->source, "", "checkpoint folder or hf://OWNER/NAME")->required();
  add_paths(command, "DST", arguments->candidates, "checkpoints to be held against it");
  add_rows_options(command, arguments->text);
  command.get_option("--text")->required();
  add_compute_dtype(command, arguments->options);
  add_activations(command, arguments->round_inputs);
  add_threads_options(command, common);
  add_memory_option(command, common);
  add_device_options(command, common);
  add_common_options(command, common);
  command.callback(
      [arguments, &common, &action] { action = [arguments, &common] { return run(*arguments, common); }; });
}

}  // namespace nibblecast
