#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/run_record.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/device.h"
#include "cli/evaluation_run.h"
#include "cli/progress.h"
#include "cli/reply.h"
#include "cli/require.h"
#include "cli/source.h"
#include "pipeline/command_record.h"
#include "pipeline/report.h"

namespace nibblecast {
namespace {

struct EvaluateArguments : EvaluationArguments {
  EvaluateArguments() : EvaluationArguments("--text") {}

  std::string source, folder;  // folder: -o
  std::vector<std::string> candidates;

  std::vector<std::string> paths() const {
    std::vector<std::string> all = {source};
    all.insert(all.end(), candidates.begin(), candidates.end());
    return all;
  }
};

// Side by side with what the checkpoint says.
constexpr const char* kSweep = "p99.99,1.0,x2,/2,/4";

// `list`: rules with commas between them. Those that are there already are not added.
void add_rules(const std::string& list, std::vector<InputScaleRule>& rules) {
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    InputScaleRule rule = parse_input_scale_rule(list.substr(begin, end - begin));
    begin = end + 1;
    if (rule.base == InputScaleRule::Base::kUnrounded)
      throw Error(ErrorKind::kUsage, {}, "'none' is no rule for input scales: give --activations none");
    if (std::ranges::find(rules, rule.name, &InputScaleRule::name) == rules.end())
      rules.push_back(std::move(rule));
  }
}

void add_activations(CLI::App& command, std::vector<InputScaleRule>& rules) {
  const auto parse = [&rules](const std::string& text) {
    if (text != "nvfp4" && text != "none")
      throw CLI::ValidationError("--activations", "unknown value '" + text + "' (expected nvfp4 or none)");
    if (text == "none") rules = {InputScaleRule{}};
  };
  CLI::Option* const activations = command.add_option_function<std::string>(
      "--activations", parse, "nvfp4|none: inputs of linears with an input_scale (nvfp4)");
  activations->option_text("WORD");
  command
      .add_flag_callback(
          "--input-scale-sweep", [&rules] { add_rules(kSweep, rules); },
          std::string("what other input scales would lose: ") + kSweep)
      ->excludes(activations);
  command
      .add_option_function<std::string>(
          "--input-scales",
          [&rules](const std::string& list) {
            try {
              add_rules(list, rules);
            } catch (const Error& error) {
              throw CLI::ValidationError("--input-scales", error.what());
            }
          },
          "the same for these: pN (percentile), xN, /N, own or a number")
      ->option_text("LIST")
      ->excludes(activations);
}

// Where reports go: a candidate's own folder where nibblecast made it, or the folder of -o, which is for one.
class Reports {
 public:
  explicit Reports(const EvaluateArguments& arguments) : arguments_(arguments) {
    if (arguments.folder.empty()) return;
    if (arguments.candidates.size() != 1)
      throw Error(ErrorKind::kUsage, {}, "-o takes the report of one candidate",
                  {.found = std::to_string(arguments.candidates.size()) + " candidates",
                   .hint = "leave -o out, or evaluate one at a time"});
    const auto status = files_.status(arguments.folder);
    if (!status || !status->is_folder)
      throw Error(ErrorKind::kUsage, {.file = arguments.folder}, "-o: there is no such folder");
  }

  void write(const OpenModels& models, const Json& document, const std::string& command) const {
    for (size_t index = 1; index <= arguments_.candidates.size(); ++index) {
      const std::filesystem::path candidate = arguments_.candidates[index - 1];
      const bool is_ours = files_.status(candidate / kRecordName).has_value();
      if (!is_ours && arguments_.folder.empty()) continue;
      const std::filesystem::path folder =
          arguments_.folder.empty() ? candidate : std::filesystem::path(arguments_.folder);
      write_report_or_warn(files_, folder / kReportPageName, [&] {
        Json own = evaluation_of(document, index);
        return is_ours ? read_report_input(files_, candidate, std::move(own))
                       : evaluated_report_input(models.source(), models.checkpoint(index), std::move(own),
                                                command);
      });
    }
  }

 private:
  const EvaluateArguments& arguments_;
  FileSystem& files_ = system_files();
};

// Models whose logits are no numbers: of them nothing can be said but that.
std::vector<std::string> not_finite(const EvaluationOutcome& outcome) {
  std::vector<std::string> lines;
  for (size_t index = 0; index < outcome.paths.size(); ++index) {
    if (!std::isfinite(outcome.model(index).nll_mean))
      lines.push_back(outcome.paths[index] +
                      ": its logits are not finite, so that its perplexity is no number");
  }
  return lines;
}

int run(const EvaluateArguments& arguments, const CommonOptions& common) {
  const Reports reports(arguments);
  ProgressPrinter printer(common.quiet);
  printer.say("reading the headers");
  const Checkpoint source = open_source(arguments.source);
  OpenModels models(source, arguments);
  for (const std::string& candidate : arguments.candidates) models.add(candidate);
  const ChosenDevice device = choose_device(common);
  printer.say("reading the texts");
  const CalibrationRows rows =
      load_rows(arguments.text, models.source(), models.vocabulary(), common.memory_limit());
  EvaluationOptions options = evaluation_options(models.models(), rows, common, device.forward);
  options.state_folder = arguments.work_folder;
  options.identity = evaluation_identity(models.models(), rows, arguments, device.forward);
  printer.end();
  const std::vector<std::string> other_configs = models.warnings();
  for (const auto* warnings : {&device.warnings, &rows.warnings, &other_configs})
    for (const std::string& warning : *warnings) print_warning(warning);
  const Evaluation evaluation = run_evaluation(models.models(), rows, options, common);
  const EvaluationOutcome outcome{.evaluation = evaluation,
                                  .rows = rows,
                                  .paths = arguments.paths(),
                                  .input_scales = arguments.rule_names(),
                                  .identities = models.identities(),
                                  .texts = models.token_texts()};
  Json document = evaluation_document(outcome, arguments);
  reports.write(models, document, published_command_text(common.command_line.record));
  if (common.json)
    set_reply(std::move(document));
  else
    print_data(evaluation_text(outcome));
  return report_unmet(not_finite(outcome));
}

}  // namespace

void add_evaluate(CLI::App& app, CommonOptions& common, Action& action) {
  const auto arguments = std::make_shared<EvaluateArguments>();
  CLI::App& command =
      add_command(app, "evaluate", "Measures what checkpoints lost against their source, on texts.",
                  "nibblecast evaluate V4-Flash V4-Flash-NVFP4 --text texts.jsonl");
  add_path(command, "SRC", arguments->source, "", "checkpoint folder or hf://OWNER/NAME")->required();
  add_paths(command, "DST", arguments->candidates, "checkpoints to be held against it");
  add_path(command, "-o,--output", arguments->folder, "DIR",
           "where the report goes; default: into DST, if nibblecast made it");
  add_rows_options(command, arguments->text);
  command.get_option("--text")->required();
  add_compute_dtype(command, arguments->compute_dtype);
  add_activations(command, arguments->rules);
  add_path(command, "--work-dir", arguments->work_folder, "DIR",
           "where the state goes, so that a killed evaluation goes on");
  add_keep_source(command);
  add_threads_options(command, common);
  add_memory_option(command, common);
  add_device_options(command, common);
  add_common_options(command, common);
  command.callback(
      [arguments, &common, &action] { action = [arguments, &common] { return run(*arguments, common); }; });
}

}  // namespace nibblecast
