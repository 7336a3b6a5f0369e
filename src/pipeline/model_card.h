// pipeline/model_card.h - the README.md of an output, fit for the Hub as it is.
#pragma once

#include <string>

#include "checkpoint/checkpoint.h"
#include "pipeline/run.h"
#include "plan/plan.h"

namespace nibblecast {

// Front matter: base_model (`base`, an OWNER/NAME; else the Hub id where SRC lies in a Hub cache; else none,
// rather than a wrong one), and what the source's own card says of licence, library and pipeline. Then what
// was done, how it was calibrated, what licence holds, and how it is served. The same for two runs of one
// job: no times, no paths.
std::string model_card(const Checkpoint& source, const Plan& plan, const Activations& activations,
                       const RunRecord& record, const std::string& base);

// How `path`, an output of that form, is served; N stands for a number of GPUs. Of DeepSeek-V4 with what its
// chat form asks for, which is no Jinja template (vLLM 0.33.0, SGLang 0.5.23, TensorRT-LLM's
// deepseek_v4/README.md).
std::string serve_command(Engine engine, OutputFormat format, const std::string& path);

}  // namespace nibblecast
