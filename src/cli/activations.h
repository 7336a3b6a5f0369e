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

// Reads and tokenizes the texts, or reads the amax file; neither where none is named. kBadInput for an amax
// file that a run with this plan would refuse. Warnings are in the result. `device`: where a forward pass
// would run; `memory_bytes`: what reading may take.
Activations load_activations(const ActivationOptions& options, const Checkpoint& source, const Plan& plan,
                             const ForwardDevice& device, uint64_t memory_bytes);

// Rows of what `options` names, of a model whose tokenizer lies beside `source`. Messages name the options
// that were given. Errors as read_rows().
CalibrationRows load_rows(const ActivationOptions& options, const Checkpoint& source,
                          const Vocabulary& vocabulary, uint64_t memory_bytes);

// Where an amax file may be written, as far as it shows before the texts are read. kUsage: into the source, a
// folder, or where there is no folder. kRefused: over an input, over anything that is no amax file, or into a
// folder that cannot be written to.
void check_amax_output(const std::string& output, const ActivationOptions& options,
                       const QuantizeOptions& recipe, const Checkpoint& source);
// kRefused unless what stands at `output`, if anything does, is what a calibration of this model on these
// rows left: its metadata say so, and it has second moments just where this run would measure them. Whether
// it holds all layers.
bool require_own_amax(const std::string& output, const Checkpoint& source, const Plan& plan,
                      const CalibrationRows& rows);

}  // namespace nibblecast
