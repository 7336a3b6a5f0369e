// model/decoder/checks.h - what the forward pass of a DecoderSpec cannot take, and what does not fit it.
#pragma once

#include <cstdint>

#include "model/embedding.h"
#include "model/model.h"
#include "model/stored.h"

namespace nibblecast {

EmbeddingShape decoder_embedding(const Model& model);

// kUnsupported: what no block has.
void check_decoder(const Model& model);
// The same of a CUDA device.
void check_cuda_decoder(const DecoderSpec& spec);

// kBadInput where the weights of an MLP that streams are not of the layer's shapes.
void check_mlp(const Model& model, uint64_t layer, uint64_t mlp, const StoredExpert& weights);

}  // namespace nibblecast
