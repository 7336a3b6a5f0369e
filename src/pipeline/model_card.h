// pipeline/model_card.h - the README.md of an output, fit for the Hub as it is.
#pragma once

#include <string>

#include "checkpoint/checkpoint.h"
#include "pipeline/run.h"
#include "plan/plan.h"

namespace nibblecast {

// Front matter: base_model (`base`, an OWNER/NAME; else the Hub id where SRC lies in a Hub cache; else none,
// rather than a wrong one), and what the source's own card says of licence, library and pipeline. Then what
// was done, how it was calibrated, and how it is served. The same for two runs of one job: no times, no
// paths.
std::string model_card(const Checkpoint& source, const Plan& plan, const Activations& activations,
                       const RunRecord& record, const std::string& base);

// How `path` is served; N stands for a number of GPUs.
std::string serve_command(Engine engine, const std::string& path);

}  // namespace nibblecast
