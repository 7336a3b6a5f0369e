// plan/work_order.h - what a plan reads and makes when: stages, layer by layer, and in them groups of linears
// that share a scale.
#pragma once

#include "checkpoint/checkpoint.h"
#include "plan/decisions.h"
#include "plan/plan.h"

namespace nibblecast {

// Of a plan that is laid out: fills its stages. kUnsupported where linears that share a scale are to be made
// differently.
void order_work(const Checkpoint& source, const Decisions& decisions, Plan& plan);

}  // namespace nibblecast
