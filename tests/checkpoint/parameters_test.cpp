#include "checkpoint/parameters.h"

#include <gtest/gtest.h>

#include <vector>

namespace nibblecast {
namespace {

TEST(Parameters, PackedWeightsHaveTwoInAByteAndScalesAreNone) {
  const std::vector<Tensor> tensors = {
      {.name = "a.weight", .dtype = Dtype::kI8, .shape = {8, 16}},
      {.name = "a.scale", .dtype = Dtype::kF8E8M0, .shape = {8, 1}},
      {.name = "b.weight", .dtype = Dtype::kU8, .shape = {8, 16}},
      {.name = "b.weight_scale", .dtype = Dtype::kF8E4M3, .shape = {8, 2}},
      {.name = "b.weight_scale_2", .dtype = Dtype::kF32, .shape = {}},
      {.name = "b.input_scale", .dtype = Dtype::kF32, .shape = {}},
      {.name = "norm.weight", .dtype = Dtype::kBF16, .shape = {7}},
      {.name = "gate.tid2eid", .dtype = Dtype::kI64, .shape = {100, 2}},
  };
  EXPECT_EQ(parameter_count(tensors), 256u + 256u + 7u);
}

}  // namespace
}  // namespace nibblecast
