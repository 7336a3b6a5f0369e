// plan/amax_fit.h - whether an amax file is one of this model, and holds what a plan needs; before any work.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "calibration/amax_file.h"
#include "checkpoint/checkpoint.h"
#include "plan/plan.h"

namespace nibblecast {

// Everything that a run would find wrong with the file: throws kBadInput, naming `file` and the first of what
// is missing or wrong: layers and vectors that the plan's input scales need, values that tap_amax()
// refuses; and what no file of this model has: more layers, other counts of experts, inputs that the model
// lacks.
void require_fitting_amax(const Plan& plan, const AmaxFile& amax, const std::string& file);

// Nothing if the file's metadata name this model; else a sentence with both names: another model, other
// weights under the same headers (a fine-tune), or a file that does not say.
std::optional<std::string> foreign_amax(const Checkpoint& source, const Plan& plan, const AmaxFile& amax,
                                        const std::string& file);

// A sentence for each entry that holds an amax below TapBound::least.
std::vector<std::string> amax_below_bounds(const Plan& plan, const std::vector<LayerAmax>& layers,
                                           const std::string& file);

// All that is worth a warning: the two above, experts without tokens, counts that contradict the amax.
std::vector<std::string> amax_warnings(const Checkpoint& source, const Plan& plan, const AmaxFile& amax,
                                       const std::string& file);

}  // namespace nibblecast
