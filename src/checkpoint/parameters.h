// checkpoint/parameters.h - how many weights a model has, and what one of them takes.
#pragma once

#include <cstdint>
#include <span>

#include "checkpoint/tensor.h"

namespace nibblecast {

// Values of all weights: two for a byte of a packed FP4 weight (X.weight, X.weight_packed of I8 or U8), eight
// for a word of packed integers (X.weight_packed of I32). Scales, by all their names, and tables of integers
// are none. Draft layers count.
uint64_t parameter_count(std::span<const Tensor> tensors);

}  // namespace nibblecast
