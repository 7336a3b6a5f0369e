// pipeline/mxfp4_views.h - which linears of a group are cast, and the MXFP4 that they are cast from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "formats/mxfp4.h"
#include "pipeline/group_maker.h"

namespace nibblecast {

class Mxfp4Views {
 public:
  // Of FP8 that may be MXFP4 (PlannedLinear::try_cast) the scales are made here, and the codes in the tasks'
  // `weight`, where a cast in place leaves them.
  Mxfp4Views(const Plan& plan, std::span<const LinearTask> tasks, Kernels kernels);

  // Nothing: tasks[index] is not to be cast, or it or another one with its share is not exactly MXFP4.
  const std::optional<Mxfp4View>& operator[](size_t index) const { return views_[index]; }

 private:
  std::vector<std::optional<Mxfp4View>> views_;
  std::vector<std::vector<uint8_t>> scales_;  // of FP8
};

}  // namespace nibblecast
