// model/forward_checks.h - what a forward pass refuses of what it is given and of what it computed, in the
// same words for every model and on every device. `module` is a full module name. kBadInput unless another
// kind is named.
#pragma once

#include <span>
#include <string>

#include "formats/stored_linear.h"
#include "model/model.h"

namespace nibblecast {

// kUnsupported: a row of `longest` tokens, in which an indexer would choose the keys that a query sees.
void check_row_length(const Model& model, uint64_t longest);

void check_shape(const std::string& module, const StoredLinear& weight, size_t rows, size_t cols);

// Where the largest magnitude seen is NaN or infinite.
void check_input(const std::string& module, float amax);
void check_streams(const std::string& module, float amax);
void check_embedding(const std::string& tensor, float amax);

// kUnsupported: a second moment of the layer's tap that FP32 cannot hold.
void check_moments(uint64_t layer, const std::string& tap, std::span<const float> moments);

[[noreturn]] void refuse_nan_score(const std::string& module);

}  // namespace nibblecast
