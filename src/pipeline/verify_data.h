// pipeline/verify_data.h - the bytes of kept tensors and experts, source against output, streamed.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "pipeline/problem_list.h"
#include "pipeline/verify.h"
#include "pipeline/verify_folder.h"
#include "pipeline/verify_scales.h"
#include "plan/plan.h"

namespace nibblecast {

struct DataCheck {
  const Checkpoint& source;
  const OutputFolder& output;
  const Plan& plan;
  const Matches& matches;
  const std::vector<float>& scales;  // check_scales()
  std::optional<NegativeZero> negative_zero;
  FileSystem& files;  // of the output
  const VerifyOptions& options;
};

// Compares every tensor that has its match; counts into `report` and adds its notes. An expert's projection
// needs its weight, block scales and weight_scale_2.
void check_data(const DataCheck& check, ProblemList& problems, VerifyReport& report);

}  // namespace nibblecast
