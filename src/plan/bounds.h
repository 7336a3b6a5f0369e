// plan/bounds.h - what weights prove of the activations that no calibration has seen.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "plan/plan.h"

namespace nibblecast {

// Fills plan.bounds from the norms' weights, which it reads. kBadInput for one that is not finite.
void bound_activations(const Checkpoint& source, Plan& plan);

// Of a plan with a constant input_scale, which is bounded: sentences on layers where it could clip, and on
// linears of which nothing is proven.
std::vector<std::string> doubts_of_constant_scale(const Plan& plan);

}  // namespace nibblecast
