// cli/evaluation_run.h - an evaluation as commands run it: `evaluate`, and `quantize --evaluate` behind its
// output.
#pragma once

#include <deque>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "cli/activations.h"
#include "cli/common_options.h"
#include "cli/evaluate_report.h"
#include "pipeline/evaluation.h"
#include "pipeline/report.h"

namespace nibblecast {

struct EvaluationArguments {
  ActivationOptions text;
  ComputeDtype compute_dtype = ComputeDtype::kBF16;
  // How inputs of linears are rounded: the source's by the first rule, each candidate's by all of them.
  std::vector<InputScaleRule> rules = {parse_input_scale_rule("calibrated")};
  std::string work_folder;  // --work-dir; empty: what is killed begins again

  bool rounds_inputs() const { return rules.front().base != InputScaleRule::Base::kUnrounded; }
  std::vector<std::string> rule_names() const;
  // `option` names the texts. Rows are as long as those of published figures, and so many that the standard
  // error of a perplexity is a per cent or two.
  explicit EvaluationArguments(const std::string& option);
};

// A source and its candidates, as far as headers tell.
class OpenModels {
 public:
  // `source` and `arguments` outlive this.
  OpenModels(const Checkpoint& source, const EvaluationArguments& arguments);
  // kBadInput where it is another model than the source, or where several rules have no input_scale to go by.
  void add(const std::string& candidate);

  const Checkpoint& source() const { return source_; }
  const Vocabulary& vocabulary() const { return plans_[0].model->vocabulary; }
  const Checkpoint& checkpoint(size_t index) const { return index == 0 ? source_ : candidates_[index - 1]; }
  // The source, then each candidate under each rule.
  std::vector<EvaluatedModel> models() const;
  std::vector<std::string> identities() const;  // of source and candidates
  // Candidates whose config.json makes them compute otherwise than the source: what is measured is that, too.
  std::vector<std::string> warnings() const;
  std::optional<TokenTexts> token_texts() const;

 private:
  const Checkpoint& source_;
  const EvaluationArguments& arguments_;
  std::deque<Checkpoint> candidates_;  // what plans and models() point to does not move
  std::deque<Plan> plans_;             // of the source and of each candidate
};

// What evaluating so many models at once takes, here or there; each as large as `models` say.
uint64_t evaluation_peak_bytes(const std::vector<EvaluatedModel>& models, const Workload& workload,
                               const CommonOptions& common, const ForwardDevice& device);
inline constexpr Workload kUsualEvaluation{.rows = 16, .tokens = 16 * 2048, .longest_row = 2048};

// Shares memory and device out evenly among the models. kRefused where there is too little.
EvaluationOptions evaluation_options(const std::vector<EvaluatedModel>& models, const CalibrationRows& rows,
                                     const CommonOptions& common, const ForwardDevice& device);

// Of all that an evaluation's figures depend on: the checkpoints and their files as they are, the rows, what
// is computed, and by which products.
std::string evaluation_identity(const std::vector<EvaluatedModel>& models, const CalibrationRows& rows,
                                const EvaluationArguments& arguments, const ForwardDevice& device);

// With progress on stderr, until a signal ends it.
Evaluation run_evaluation(const std::vector<EvaluatedModel>& models, const CalibrationRows& rows,
                          EvaluationOptions options, const CommonOptions& common);

// evaluation_json(), and what of the arguments it depends on.
Json evaluation_document(const EvaluationOutcome& outcome, const EvaluationArguments& arguments);

// A report that cannot be made or written is a warning: what it would show is there without it.
void write_report_or_warn(FileSystem& files, const std::filesystem::path& page,
                          const std::function<ReportInput()>& read);

// Of a document of several candidates, what it says of the source and the `candidate`-th (1 is the first).
Json evaluation_of(const Json& document, size_t candidate);

}  // namespace nibblecast
