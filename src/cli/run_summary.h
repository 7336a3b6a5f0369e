// cli/run_summary.h - what a run came to: the lines that answer in ten seconds whether it is good, where it
// is, what it takes and what comes next; and the same for scripts.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "pipeline/run.h"
#include "plan/plan.h"

namespace nibblecast {

struct RunOutcome {
  const Checkpoint& source;
  const Plan& plan;
  const Activations& activations;
  const RunRecord& record;
  const Job& job;
  std::string source_path, output;         // as they were given; output: a folder, or an amax file
  std::vector<std::string> warnings = {};  // that stood before the run; each is said again
};

// Of findings, those that are warnings.
std::vector<std::string> warning_texts(const std::vector<Finding>& findings);

// Of quantize, dequantize and convert.
std::string run_text(const RunOutcome& outcome);
// Of calibrate.
std::string calibration_text(const RunOutcome& outcome);

// "verdict" ("good" or "warnings") and what else the lines of every command say, by name; the warnings go
// into the reply's.
Json outcome_json(const RunOutcome& outcome);
// Of quantize, dequantize and convert: run_document() (pipeline/output.h) too.
Json run_json(const RunOutcome& outcome);
// run_text() or run_json(), to stdout.
void print_outcome(const RunOutcome& outcome, bool json);

// "1.60 trillion parameters, 4.33 bits per weight".
std::string weights_text(uint64_t parameters, uint64_t bytes);

}  // namespace nibblecast
