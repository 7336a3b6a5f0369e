#include "ops/rope_table.h"

#include <cmath>
#include <numbers>
#include <string>

#include "base/error.h"

namespace nibblecast {
namespace {

std::vector<float> plain_frequencies(double theta, size_t dims) {
  std::vector<float> frequencies(dims / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(dims);
    frequencies[i] = 1.0f / static_cast<float>(std::pow(theta, double{exponent}));
  }
  return frequencies;
}

double yarn_factor(const YarnRope& rope) {
  if (rope.attention_factor) return *rope.attention_factor;
  const double factor = rope.yarn.factor;
  if (rope.mscale == 0 || rope.mscale_all_dim == 0) return yarn_growth(factor, 1);
  return yarn_growth(factor, rope.mscale) / yarn_growth(factor, rope.mscale_all_dim);
}

float llama3_frequency(const Llama3Rope& rope, float frequency) {
  const float factor = static_cast<float>(rope.factor), low = static_cast<float>(rope.low_factor),
              high = static_cast<float>(rope.high_factor);
  const float length = static_cast<float>(rope.original_length);
  const float wave = static_cast<float>(2 * std::numbers::pi) / frequency;
  if (wave > length / low) return frequency / factor;
  if (wave < length / high) return frequency;
  const float smooth = (length / wave - low) / (high - low);
  return (1 - smooth) * frequency / factor + smooth * frequency;
}

// Each kind of scaling changes a table of plain frequencies.
struct Scale {
  const RopeSpec& spec;
  RopeTable& table;

  void operator()(std::monostate) const {}
  void operator()(const DynamicRope&) const {}
  void operator()(const LinearRope& rope) const {
    for (float& frequency : table.frequencies) frequency /= static_cast<float>(rope.factor);
  }
  void operator()(const Llama3Rope& rope) const {
    for (float& frequency : table.frequencies) frequency = llama3_frequency(rope, frequency);
  }
  void operator()(const YarnRope& rope) const {
    blend_yarn(rope.yarn, spec.theta, table.frequencies);
    table.factor = static_cast<float>(yarn_factor(rope));
  }
};

}  // namespace

double yarn_growth(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

RopeTable rope_table(const RopeSpec& spec) {
  RopeTable table{plain_frequencies(spec.theta, spec.dims)};
  std::visit(Scale{spec, table}, spec.scaling);
  return table;
}

Rope make_rope(const RopeSpec& spec, size_t positions) {
  const DynamicRope* dynamic = std::get_if<DynamicRope>(&spec.scaling);
  if (dynamic != nullptr && positions > dynamic->length) {
    throw Error(ErrorKind::kUnsupported, {},
                "rope_type 'dynamic' with rows longer than max_position_embeddings",
                {.expected = "at most " + std::to_string(dynamic->length) + " tokens",
                 .found = std::to_string(positions),
                 .hint = "give shorter rows (--calib-seq, --text-seq)"});
  }
  const RopeTable table = rope_table(spec);
  return Rope(table.frequencies, positions, spec.pairing, table.factor);
}

}  // namespace nibblecast
