// model/decoder/forward.h - the forward pass of models that a DecoderSpec describes, on the CPU or a CUDA
// device: transformers' own within rounding (model/decoder_spec.h names the formulas).
//
// T is the compute dtype: float, nothing is rounded; bf16, activations are rounded where they enter a product
// or are kept, the residual stream is kept in it, sums are FP32. Experts' outputs are weighted after down and
// added in FP32: the shared expert's first, then those of the routed ones, ascending.
#pragma once

#include <memory>
#include <vector>

#include "model/decoder/memory.h"
#include "model/forward_pass.h"

namespace nibblecast {

// Errors as of make_forward_pass(). `model` outlives the pass.
template <class T>
std::unique_ptr<ForwardPass> make_decoder_forward(const Model& model,
                                                  const std::vector<std::vector<int32_t>>& rows,
                                                  const ForwardDevice& device);

}  // namespace nibblecast
