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
  std::vector<std::string> paths = {};       // of the models, as they were given
  std::vector<std::string> identities = {};  // source_identity() of each
  std::optional<TokenTexts> texts = {};      // of the source's tokens
};

std::string evaluation_text(const EvaluationOutcome& outcome);
Json evaluation_json(const EvaluationOutcome& outcome);  // what is no number is null

}  // namespace nibblecast
