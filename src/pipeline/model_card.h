// pipeline/model_card.h - the README.md of an output.
#pragma once

#include <string>

#include "checkpoint/checkpoint.h"
#include "pipeline/run.h"
#include "plan/plan.h"

namespace nibblecast {

// Front matter with `base_model` (the Hub id where SRC lies in a Hub cache, else the folder's name) and the
// source's licence lines; then what was done, in a few lines.
std::string model_card(const Checkpoint& source, const Plan& plan, const Activations& activations,
                       const RunRecord& record);

}  // namespace nibblecast
