// cli/activations.h - calibration texts or an amax file, as the options name them.
#pragma once

#include "checkpoint/checkpoint.h"
#include "cli/common_options.h"
#include "pipeline/run.h"
#include "plan/cost.h"
#include "plan/plan.h"

namespace nibblecast {

// kUsage if both --calib and --amax are given.
void require_one_origin(const ActivationOptions& options);
// kUsage if neither is given where the plan needs activations.
void require_origin(const ActivationOptions& options, const Plan& plan);

// Reads and tokenizes the texts, or reads the amax file; neither where none is named. Warnings go to stderr.
// `device`: where a forward pass would run; `memory_bytes`: what reading may take.
Activations load_activations(const ActivationOptions& options, const Checkpoint& source, const Plan& plan,
                             const ForwardDevice& device, uint64_t memory_bytes);

Workload workload_of(const Activations& activations);

// Where an amax file may be written: not into the source; its folder exists. Error kUsage.
void check_amax_output(const std::filesystem::path& output, const Checkpoint& source);

}  // namespace nibblecast
