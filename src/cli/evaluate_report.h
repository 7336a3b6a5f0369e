// cli/evaluate_report.h - what an evaluation found, for people and for programs.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "calibration/rows.h"
#include "calibration/token_texts.h"
#include "pipeline/evaluation.h"

namespace nibblecast {

struct EvaluationOutcome {
  const Evaluation& evaluation;
  const CalibrationRows& rows;
  std::vector<std::string> paths = {};  // of source and candidates, as they were given
  // Of each candidate, one model after the other (InputScaleRule::name).
  std::vector<std::string> input_scales = {"calibrated"};
  std::vector<std::string> identities = {};  // source_identity() of the same
  std::optional<TokenTexts> texts = {};      // of the source's tokens

  // Of source (0) or candidate, under the `rule`-th of input_scales.
  const ModelEvaluation& model(size_t index, size_t rule = 0) const {
    return evaluation.models[index == 0 ? 0 : 1 + (index - 1) * input_scales.size() + rule];
  }
};

std::string evaluation_text(const EvaluationOutcome& outcome);
Json evaluation_json(const EvaluationOutcome& outcome);  // what is no number is null

}  // namespace nibblecast
