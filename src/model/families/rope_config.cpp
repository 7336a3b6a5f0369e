#include "model/families/rope_config.h"

#include <algorithm>
#include <cmath>

namespace nibblecast {
namespace {

using Scaling = decltype(RopeSpec::scaling);

// rope_type, or `type` as it was once spelled.
std::string type_of(const ConfigReader& rope) {
  const auto type = rope.maybe_string("rope_type"), old = rope.maybe_string("type");
  if (type && old && *type != *old) rope.refuse_contradiction("rope_type", *type, "type", *old);
  return type ? *type : old.value_or("default");
}

double at_least_one(const ConfigReader& rope, const std::string& key) {
  const double value = rope.positive(key);
  if (!(value >= 1)) rope.refuse_value(key, "at least 1", std::to_string(value));
  return value;
}

// The length that the model was trained with before its positions were stretched.
uint64_t original_length(const ConfigReader& root, const ConfigReader& rope) {
  const char* key = "original_max_position_embeddings";
  const auto inner = rope.maybe_integer(key, 1, kMaxPositions);
  const auto outer = root.maybe_integer(key, 1, kMaxPositions);
  if (inner && outer && *inner != *outer)
    rope.refuse_contradiction(key, std::to_string(*inner), key, std::to_string(*outer));
  if (inner || outer) return inner ? *inner : *outer;
  return root.integer("max_position_embeddings", 1, kMaxPositions);
}

Llama3Rope llama3_rope(const ConfigReader& root, const ConfigReader& rope) {
  Llama3Rope scaling{.factor = at_least_one(rope, "factor"),
                     .low_factor = rope.positive("low_freq_factor"),
                     .high_factor = rope.positive("high_freq_factor"),
                     .original_length = static_cast<double>(original_length(root, rope))};
  if (!(scaling.high_factor > scaling.low_factor)) {
    rope.refuse_value("high_freq_factor", "more than low_freq_factor = " + std::to_string(scaling.low_factor),
                      std::to_string(scaling.high_factor));
  }
  return scaling;
}

YarnRope yarn_rope(const ConfigReader& root, const ConfigReader& rope) {
  YarnRope scaling;
  scaling.yarn.original_length = static_cast<double>(original_length(root, rope));
  if (rope.find("factor") != nullptr) {
    scaling.yarn.factor = at_least_one(rope, "factor");
  } else {
    const uint64_t length = root.integer("max_position_embeddings", 1, kMaxPositions);
    scaling.yarn.factor = std::max(1.0, static_cast<double>(length) / scaling.yarn.original_length);
  }
  scaling.yarn.beta_fast = rope.maybe_positive("beta_fast").value_or(scaling.yarn.beta_fast);
  scaling.yarn.beta_slow = rope.maybe_positive("beta_slow").value_or(scaling.yarn.beta_slow);
  scaling.yarn.truncate = rope.maybe_flag("truncate").value_or(true);
  scaling.attention_factor = rope.maybe_positive("attention_factor");
  scaling.mscale = rope.maybe_positive("mscale").value_or(0);
  scaling.mscale_all_dim = rope.maybe_positive("mscale_all_dim").value_or(0);
  // Kimi-K2 has them equal.
  if (!(scaling.yarn.beta_fast >= scaling.yarn.beta_slow)) {
    rope.refuse_value("beta_fast", "at least beta_slow = " + std::to_string(scaling.yarn.beta_slow),
                      std::to_string(scaling.yarn.beta_fast));
  }
  return scaling;
}

Scaling read_scaling(const ConfigReader& root, const ConfigReader& rope) {
  const std::string type = type_of(rope);
  if (type == "default") return std::monostate();
  if (type == "linear") return LinearRope{at_least_one(rope, "factor")};
  if (type == "dynamic") return DynamicRope{root.integer("max_position_embeddings", 1, kMaxPositions)};
  if (type == "llama3") return llama3_rope(root, rope);
  if (type == "yarn") return yarn_rope(root, rope);
  rope.refuse_unsupported(rope.find("rope_type") != nullptr ? "rope_type" : "type",
                          "default, linear, dynamic, llama3 or yarn", type);
}

// Parameters for each kind of layer stand in objects of their own.
void refuse_nested(const ConfigReader& rope) {
  for (const char* kind : {"full_attention", "sliding_attention"}) {
    if (const Json* nested = rope.find(kind))
      rope.refuse_unsupported(kind, "one set of parameters for all layers", value_text(*nested));
  }
}

// A number that stands beside the section, within it, or in both places.
std::optional<double> number_of(const ConfigReader& root, const std::optional<ConfigReader>& rope,
                                const std::string& key) {
  const auto outer = root.maybe_positive(key);
  const auto inner = rope ? rope->maybe_positive(key) : std::nullopt;
  if (inner && outer && *inner != *outer)
    rope->refuse_contradiction(key, std::to_string(*inner), key, std::to_string(*outer));
  return inner ? inner : outer;
}

// The share of a head's channels that turn, as MiniMax-M2 states it: by their number.
double share_of_channels(const ConfigReader& root, uint64_t width, double otherwise) {
  const auto channels = root.maybe_integer("rotary_dim", 2, width);
  return channels ? static_cast<double>(*channels) / static_cast<double>(width) : otherwise;
}

double read_share(const ConfigReader& root, const std::optional<ConfigReader>& rope, uint64_t width,
                  const RopeDefaults& defaults) {
  const char* key = "partial_rotary_factor";
  if (defaults.ignores_share) return 1;
  const auto stated = number_of(root, rope, key);
  if (!defaults.partial) {
    if (stated && *stated != 1) root.refuse_unsupported(key, "1", std::to_string(*stated));
    return 1;
  }
  if (!stated) return share_of_channels(root, width, defaults.share);
  if (!(*stated <= 1)) root.refuse_value(key, "at most 1", std::to_string(*stated));
  const double other = share_of_channels(root, width, *stated);
  if (!(std::fabs(*stated - other) * static_cast<double>(width) < 0.5))
    root.refuse_contradiction(key, std::to_string(*stated), "rotary_dim", std::to_string(other));
  return *stated;
}

RopeSpec read_from(const ConfigReader& root, const std::optional<ConfigReader>& rope, uint64_t width,
                   const RopeDefaults& defaults) {
  RopeSpec spec;
  spec.theta = number_of(root, rope, "rope_theta").value_or(defaults.theta);
  if (!(spec.theta > 1)) root.refuse_value("rope_theta", "a number above 1", std::to_string(spec.theta));
  const double share = read_share(root, rope, width, defaults);
  spec.dims = static_cast<size_t>(static_cast<double>(width) * share);  // rounds down, as transformers does
  if (spec.dims < 2 || spec.dims % 2 != 0)
    root.refuse_value(defaults.width_key, "an even number of channels that turn", std::to_string(spec.dims));
  if (rope) {
    refuse_nested(*rope);
    spec.scaling = read_scaling(root, *rope);
  }
  return spec;
}

}  // namespace

RopeSpec read_rope(const ConfigReader& root, uint64_t width, const RopeDefaults& defaults) {
  const auto parameters = root.maybe_section("rope_parameters"), scaling = root.maybe_section("rope_scaling");
  RopeSpec spec = read_from(root, parameters ? parameters : scaling, width, defaults);
  if (parameters && scaling && !(read_from(root, scaling, width, defaults) == spec)) {
    root.refuse_contradiction("rope_scaling", value_text(*root.find("rope_scaling")), "rope_parameters",
                              value_text(*root.find("rope_parameters")));
  }
  return spec;
}

}  // namespace nibblecast
