// model/families/rope_config.h - rotary positions by any spelling of config.json: `rope_parameters` (flat),
// or `rope_scaling` beside a top-level `rope_theta`; `type` for `rope_type`. Where two spellings stand in one
// file they must agree. (transformers 5.23, RotaryEmbeddingConfigMixin of modeling_rope_utils.py)
#pragma once

#include "model/config_reader.h"
#include "ops/rope_table.h"

namespace nibblecast {

// What a family says where its config is silent.
struct RopeDefaults {
  double theta = 10000;
  // Whether the family turns a part of a head's channels only, and which (`partial_rotary_factor`). Otherwise
  // another factor than 1 is refused.
  bool partial = false;
  double share = 1;
  bool ignores_share = false;          // it has no meaning: the width given is what turns
  const char* width_key = "head_dim";  // that says the width, for messages
};

// `width`: channels of a head. kUnsupported for a rope_type that ops/rope_table.h lacks, and for parameters
// by kind of layer.
RopeSpec read_rope(const ConfigReader& root, uint64_t width, const RopeDefaults& defaults);

}  // namespace nibblecast
