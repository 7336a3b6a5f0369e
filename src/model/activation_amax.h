// model/activation_amax.h - what calibration records of one layer, tap by tap (model/model_table.h): the
// largest |x| that entered its linears, and if asked for the mean x^2 of each channel.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace nibblecast {

struct LayerAmax {
  uint64_t layer = 0;
  // By the tap's name: one value, or one for each routed expert (0 for an expert without tokens). Of a
  // weighted tap also NAME_weighted: times the routing weight, which includes what scales it.
  std::map<std::string, std::vector<float>> taps = {};
  std::vector<int64_t> tokens = {};  // routed to each expert; empty in a dense layer
  // By the tap's name: the mean of x^2 over the tokens of each channel, [width], or [experts, width] (0 for
  // an expert without tokens). FP32 of a double sum over tokens in their order, so the same whatever threads
  // and chunks. Empty unless they were asked for (ForwardPass::measure_second_moments).
  std::map<std::string, std::vector<float>> second_moments = {};

  bool operator==(const LayerAmax&) const = default;
};

inline std::string weighted_tap(const std::string& tap) { return tap + "_weighted"; }
// Whether an entry has a value for each routed expert.
inline bool is_of_experts(std::string_view tap) { return tap.starts_with("experts."); }

}  // namespace nibblecast
