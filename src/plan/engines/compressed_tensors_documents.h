// plan/engines/compressed_tensors_documents.h - quantization_config of compressed-tensors' form as engines
// read it.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/json.h"
#include "plan/engines/breach_list.h"
#include "plan/engines/units.h"

namespace nibblecast {

// What engines make of a group's numbers: "NVFP4", "NVFP4A16", "FP8" (one scale, static inputs), or kUnknown.
inline constexpr std::string_view kUnknown = "unknown";
std::string_view scheme_of_group(const Json& group);

// Targets, or what is ignored: names, patterns and classes, each with what holds for it.
class TargetList {
 public:
  void add(const std::string& target, std::string_view value);
  // By the name itself, then by the first pattern that fits; empty: neither.
  std::string_view find(const std::string& name) const;
  // The same of `name` or the end of it behind a dot.
  std::string_view find_end(const std::string& name) const;
  // Of the class "Linear".
  std::string_view linear() const;

 private:
  std::unordered_map<std::string, std::string> names_;
  std::vector<std::pair<std::string, std::string>> patterns_;  // as plan/glob.h reads them
};

class CompressedTensorsReading {
 public:
  CompressedTensorsReading(Engine engine, std::string model_type, const Json& config);

  // The scheme by which the engine builds the unit, or kPlain (modelopt_documents.h); a sentence in
  // `conflict` where the engine refuses the checkpoint instead.
  std::string scheme_of(const EngineUnit& unit, std::string& conflict) const;

 private:
  std::vector<std::string> looked_up(const EngineUnit& unit) const;
  // Of one linear by its name; empty: no target has it.
  std::string scheme_of_name(const std::string& name, bool is_linear) const;

  Engine engine_;
  std::string model_type_;
  TargetList targets_;  // with their schemes
  TargetList ignored_;
};

// Rules of the keys.
void check_compressed_tensors_keys(const Json& quantization, const Json& hf_quant_config,
                                   BreachList& breaches);

}  // namespace nibblecast
