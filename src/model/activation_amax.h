// model/activation_amax.h - what calibration records of one layer: the largest |x| that entered its linears,
// tap by tap (model/model_table.h).
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

  bool operator==(const LayerAmax&) const = default;
};

inline std::string weighted_tap(const std::string& tap) { return tap + "_weighted"; }
// Whether an entry has a value for each routed expert.
inline bool is_of_experts(std::string_view tap) { return tap.starts_with("experts."); }

}  // namespace nibblecast
