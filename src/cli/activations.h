// cli/activations.h - calibration texts or an amax file, as the options name them.
#pragma once

#include "checkpoint/checkpoint.h"
#include "cli/common_options.h"
#include "pipeline/run.h"
#include "plan/cost.h"
#include "plan/plan.h"

namespace nibblecast {

// kUsage unless exactly one of --calib and --amax is given.
void require_one_origin(const ActivationOptions& options);

// Reads and tokenizes the texts, or reads the amax file. Warnings go to stderr.
Activations load_activations(const ActivationOptions& options, const Checkpoint& source, const Plan& plan);

Workload workload_of(const Activations& activations);

// Where an amax file may be written: not into the source; its folder exists. Error kUsage.
void check_amax_output(const std::filesystem::path& output, const Checkpoint& source);

}  // namespace nibblecast
