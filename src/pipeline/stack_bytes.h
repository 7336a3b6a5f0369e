// pipeline/stack_bytes.h - the bytes of a stack of matrices (WeightModule::stack), each transposed: as they
// are made, and as an output holds them.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "formats/stored_linear.h"
#include "plan/plan.h"

namespace nibblecast {

// `bytes`, of `count` matrices of [rows, cols] elements, to [cols, rows] each, in place.
void transpose_stack(std::span<std::byte> bytes, uint64_t count, uint64_t rows, uint64_t element_bytes);

// Of one of the linear's tensors, as it was made by rows, to what the output holds; nothing else than a stack
// is touched. And back.
void to_output(const Plan& plan, const PlannedLinear& linear, uint32_t tensor, std::span<std::byte> bytes);
void from_output(const Plan& plan, const PlannedLinear& linear, uint32_t tensor, std::span<std::byte> bytes);

// A linear's source by rows, as it is quantized: a stack without scales is stored with each matrix transposed
// (Llama-4's). `held` keeps the bytes of such a one.
StoredLinear by_rows(const PlannedLinear& linear, const StoredLinear& source, std::vector<std::byte>& held);

}  // namespace nibblecast
