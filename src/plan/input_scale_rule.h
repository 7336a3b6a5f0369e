// plan/input_scale_rule.h - which scales the inputs of a checkpoint's linears are rounded with when it is
// evaluated: a checkpoint and a rule make a candidate.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/forward_plan.h"

namespace nibblecast {

struct InputScaleRule {
  enum class Base : uint8_t {
    kUnrounded,   // inputs are not rounded
    kReduced,     // the checkpoint's, as engines reduce them (docs/engines.md): linears that are fused, and
                  // gate and up of an MLP, share the largest; of routed experts all of a layer do
    kOwn,         // the same, but each expert has its own
    kConstant,    // 1
    kPercentile,  // what `share` of the blocks of the source's inputs of a layer's tap do not exceed, / 2688
  };
  std::string name = "none";  // as it is given
  Base base = Base::kUnrounded;
  float factor = 1;  // times the base
  double share = 1;  // in (0, 1]
};

// "none", "calibrated" (kReduced), "own", "p99.99" (a percentile), "x2", "/4" (of kReduced), or a number
// above 0. kUsage for any other text.
InputScaleRule parse_input_scale_rule(const std::string& text);

// Of a layer's linears that have an input_scale, what `rule` makes of them: module -> scale. `source_blocks`:
// of the source's layer, for kPercentile; kUnsupported where a linear's tap is not in them. A tap all of
// whose blocks are zero is not rounded, which is the same. kBadInput where a scale is not above 0 or not
// finite.
LayerInputScales apply_rule(const InputScaleRule& rule, const StoredInputScales& stored,
                            const LayerTable& table, const TapBlocks& source_blocks);

}  // namespace nibblecast
