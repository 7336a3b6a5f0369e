// plan/retarget.h - the Plan of `nibblecast convert --format`: an NVFP4 checkpoint in another dialect's names
// and documents.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "checkpoint/checkpoint.h"
#include "plan/plan.h"

namespace nibblecast {

// What nibblecast.json records of it, "convert compressed-tensors"; and back, nothing for any other text.
std::string retarget_text(OutputFormat format);
std::optional<OutputFormat> parse_retarget(std::string_view text);

// Of a checkpoint that ModelOpt, llm-compressor or nibblecast made of a model that is known by its table.
// Codes, block scales and all that is not quantized stay to the byte; the second-level scales, of weights and
// of inputs, are read while planning and become 1 / x, rounded once. A warning says how many of them do not
// return when they are inverted again, and the largest relative difference; warnings say which engines would
// not load the output. The documents say of each module what its tensors are: W4A4 where there is an input
// scale, else W4A16; FP8 with one scale and a static input. Refusals, in the findings: linears that engines
// fuse (q, k and v; gate and up; ...) whose second-level scales differ. Throws kUnsupported: a family or form
// that is not written in `format`, a source that is so already, a quantized tensor that is neither NVFP4 nor
// FP8 with one scale, or that the table does not have, scales of a KV cache; kBadInput: nothing is NVFP4, an
// input scale that config.json says is there, a scale that is not positive and finite or whose reciprocal is
// not, and as take_inventory().
Plan make_retarget_plan(const Checkpoint& source, OutputFormat format);

}  // namespace nibblecast
