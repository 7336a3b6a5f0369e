#include "cli/evaluation_run.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/size_text.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "cli/job_run.h"
#include "cli/progress.h"
#include "cli/source.h"
#include "ops/product_isa.h"
#include "pipeline/run.h"
#include "plan/cost.h"
#include "plan/forward_plan.h"

namespace nibblecast {
namespace {

class Shares {
 public:
  Shares(const std::vector<EvaluatedModel>& models, const Workload& workload, const CommonOptions& common,
         const ForwardDevice& device)
      : models_(models), common_(common), limit_(common.memory_limit()) {
    const size_t count = models.size();
    options_.device = device;
    const Model& model = *models[0].plan->model;
    peak_bytes_ = evaluation_memory_bytes(model, workload, count);
    reserve_for_meeting(meeting_bytes(model, workload, count, device.cuda.has_value()));
    options_.device.memory_bytes /= count;
    const uint64_t inputs = rounded_inputs_bytes(model, workload);
    for (const EvaluatedModel& each : models)
      if (each.input_scale.base != InputScaleRule::Base::kUnrounded) reserve_for_inputs(inputs);
    options_.device.memory_bytes -= std::min(options_.device.memory_bytes, inputs_on_device_);
    const uint64_t share = (limit_ - std::min(limit_, peak_bytes_)) / count;
    for (size_t index = 0; index < count; ++index) add(index, workload, share);
  }

  uint64_t peak_bytes() const { return peak_bytes_; }
  void require_memory() const {
    const size_t count = models_.size();
    if (peak_bytes_ <= limit_) return;
    throw Error(
        ErrorKind::kRefused, {},
        fmt::format("{} needs {} of memory and may use {}",
                    count == 1 ? "the model" : fmt::format("evaluating {} models at once", count),
                    size_text(peak_bytes_), size_text(limit_)),
        {.hint =
             "raise --memory, evaluate fewer checkpoints or input scales at once, or fewer or shorter rows"});
  }

  const EvaluationOptions& options() const { return options_; }

 private:
  // Once for all models.
  void reserve_for_meeting(uint64_t size_bytes) {
    uint64_t& on_device = options_.device.memory_bytes;
    if (options_.device.cuda)
      on_device -= std::min(on_device, size_bytes);
    else
      peak_bytes_ += size_bytes;
  }
  // Where the models compute: on the device, each in its own share, or here.
  void reserve_for_inputs(uint64_t size_bytes) {
    if (options_.device.cuda)
      inputs_on_device_ = size_bytes;
    else
      peak_bytes_ += size_bytes;
  }

  // A candidate's next rule takes its streams, and of the weights what a pass keeps of a layer.
  bool shares_reads(size_t index) const {
    return index > 1 && models_[index].checkpoint == models_[index - 1].checkpoint;
  }

  void add(size_t index, const Workload& workload, uint64_t share) {
    const Plan& plan = *models_[index].plan;
    const MemoryCost cost = memory_cost(*models_[index].checkpoint, plan, workload, common_.threads, share,
                                        options_.device, false);
    peak_bytes_ += cost.forward_bytes + cost.dense_bytes;
    if (!shares_reads(index)) peak_bytes_ += cost.read_bytes + cost.make_bytes + cost.write_bytes;
    if (index == 0) peak_bytes_ += cost.fixed_bytes;
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

  const std::vector<EvaluatedModel>& models_;
  const CommonOptions& common_;
  const uint64_t limit_;
  uint64_t peak_bytes_ = 0, inputs_on_device_ = 0;
  EvaluationOptions options_;
};

}  // namespace

EvaluationArguments::EvaluationArguments(const std::string& option) {
  text.option = option;
  text.default_size = kUsualEvaluation.rows;
  text.rows.length = kUsualEvaluation.longest_row;
  text.rows.policy = RowsPolicy::kPacked;
}

std::vector<std::string> EvaluationArguments::rule_names() const {
  std::vector<std::string> names;
  for (const InputScaleRule& rule : rules) names.push_back(rule.name);
  return names;
}

OpenModels::OpenModels(const Checkpoint& source, const EvaluationArguments& arguments)
    : source_(source), arguments_(arguments) {
  plans_.push_back(make_forward_plan(source, arguments.compute_dtype));
}

void OpenModels::add(const std::string& candidate) {
  const Checkpoint& opened = candidates_.emplace_back(open_source(candidate));
  plans_.push_back(make_forward_plan(opened, arguments_.compute_dtype));
  require_same_model(plans_[0], plans_.back(), opened.folder().string());
  if (arguments_.rules.size() > 1 && !has_input_scales(opened, plans_.back()))
    throw Error(ErrorKind::kBadInput, {.file = opened.folder().string()},
                "has no linear with an input_scale, so that there are no scales to compare",
                {.hint = "leave out --input-scale-sweep and --input-scales, or this checkpoint"});
}

std::vector<EvaluatedModel> OpenModels::models() const {
  std::vector<EvaluatedModel> all;
  for (size_t index = 0; index < plans_.size(); ++index) {
    for (const InputScaleRule& rule : arguments_.rules) {
      all.push_back({&checkpoint(index), &plans_[index], rule});
      if (index == 0) break;
    }
  }
  return all;
}

std::vector<std::string> OpenModels::identities() const {
  std::vector<std::string> all;
  for (size_t index = 0; index < plans_.size(); ++index) all.push_back(source_identity(checkpoint(index)));
  return all;
}

std::vector<std::string> OpenModels::warnings() const {
  std::vector<std::string> warnings;
  for (size_t index = 1; index < plans_.size(); ++index) {
    if (computes_alike(*plans_[0].model, *plans_[index].model)) continue;
    warnings.push_back(
        checkpoint(index).folder().string() +
        ": its config.json makes it compute otherwise than the source (RoPE, eps, heads or the "
        "like): what is measured is that, too");
  }
  return warnings;
}

std::optional<TokenTexts> OpenModels::token_texts() const {
  return TokenTexts::load(source().files(), source().folder() / "tokenizer.json");
}

EvaluationOptions evaluation_options(const std::vector<EvaluatedModel>& models, const CalibrationRows& rows,
                                     const CommonOptions& common, const ForwardDevice& device) {
  const Shares shares(models, {rows.ids.size(), rows.tokens(), rows.longest()}, common, device);
  shares.require_memory();
  return shares.options();
}

uint64_t evaluation_peak_bytes(const std::vector<EvaluatedModel>& models, const Workload& workload,
                               const CommonOptions& common, const ForwardDevice& device) {
  return Shares(models, workload, common, device).peak_bytes();
}

std::string evaluation_identity(const std::vector<EvaluatedModel>& models, const CalibrationRows& rows,
                                const EvaluationArguments& arguments, const ForwardDevice& device) {
  Json checkpoints = Json::array();
  for (const EvaluatedModel& model : models) {
    Json files = Json::array();
    for (const Shard& shard : model.checkpoint->shards())
      files.push_back({shard.name, shard.size_bytes, shard.mtime_ns, shard.version});
    checkpoints.push_back({{"identity", source_identity(*model.checkpoint)},
                           {"files", std::move(files)},
                           {"input_scale", model.input_scale.name}});
  }
  return identity_hash({{"version", NIBBLECAST_VERSION},
                        {"models", std::move(checkpoints)},
                        {"rows", rows_identity(rows)},
                        {"compute_dtype", compute_dtype_name(arguments.compute_dtype)},
                        {"products", device.cuda ? device_identity(device) : product_isa()}});
}

Evaluation run_evaluation(const std::vector<EvaluatedModel>& models, const CalibrationRows& rows,
                          EvaluationOptions options, const CommonOptions& common) {
  const InterruptWatch watch(options.state_folder.empty() ? "" : kResumeHint);
  ProgressPrinter progress(common.quiet);
  progress.begin();
  options.progress = [&](const EvaluationProgress& done) {
    watch.check();
    progress.update(done.stage, done.bytes_done, done.bytes);
  };
  Evaluation evaluation = evaluate(models, rows, options);
  progress.end();
  return evaluation;
}

Json evaluation_document(const EvaluationOutcome& outcome, const EvaluationArguments& arguments) {
  Json document = evaluation_json(outcome);
  document["activations"] = arguments.rounds_inputs() ? "nvfp4" : "none";
  document["compute_dtype"] = compute_dtype_name(arguments.compute_dtype);
  return document;
}

void write_report_or_warn(FileSystem& files, const std::filesystem::path& page,
                          const std::function<ReportInput()>& read) {
  try {
    write_report(files, page, report_document(read()));
  } catch (const Error& error) {
    print_warning(std::string("there is no report of this run: ") + error.what());
  }
}

Json evaluation_of(const Json& document, size_t candidate) {
  Json own = document;
  own["models"] = Json::array({document.at("models").at(0), document.at("models").at(candidate)});
  return own;
}

}  // namespace nibblecast
