// cli/plan_report.h - what `plan` found, as a value, as text and as JSON.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/job_options.h"
#include "plan/engines.h"
#include "plan/plan.h"

namespace nibblecast {

struct PlanReport {
  const Checkpoint* source = nullptr;
  const Plan* plan = nullptr;
  Preflight preflight;
  std::string device;                              // "cuda:0 NVIDIA H100 80GB HBM3", or "cpu" and why
  std::optional<double> seconds;                   // nothing where the disk could not be measured
  std::optional<double> calibration_seconds = {};  // of 128 rows of 512 tokens, where they have to come yet
  std::vector<Breach> breaches;                    // of all engines
  std::optional<uint64_t> evaluation_bytes = {};   // `evaluate SRC DST` of the usual rows, in memory
};

// Of the default calibration, where activations are needed and none were named; else nothing.
std::optional<double> usual_calibration_seconds(const Plan& plan, const Preflight& found);

std::string plan_text(const PlanReport& report);  // refusals left out: they are errors, on stderr
Json plan_json(const PlanReport& report);

}  // namespace nibblecast
