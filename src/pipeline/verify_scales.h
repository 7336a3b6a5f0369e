// pipeline/verify_scales.h - the scalars of an output's experts: weight_scale_2 and input_scale.
#pragma once

#include <vector>

#include "base/file.h"
#include "pipeline/problem_list.h"
#include "pipeline/verify_documents.h"
#include "pipeline/verify_folder.h"
#include "plan/plan.h"

namespace nibblecast {

// By planned tensor: the output's, or nullptr where it is missing, of another dtype or of another shape.
using Matches = std::vector<const Tensor*>;

// Reads all scalars and holds them against each other: positive and finite, w1's and w3's the same bits,
// input_scale what policy and measured amax make of it (where the output records them). Returns them by
// planned tensor; NaN for other tensors and where there is none. That weight_scale_2 is the right one is for
// whoever sees the source's scales.
std::vector<float> check_scales(const Checkpoint& source, const OutputFolder& output, const Matches& matches,
                                const Plan& plan, const RecordedOptions& recorded, FileSystem& files,
                                ProblemList& problems, std::vector<std::string>& notes);

}  // namespace nibblecast
