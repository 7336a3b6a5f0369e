#include "ops/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace nibblecast {
namespace {

// The pair (a real number) that turns `turns` times over the original length.
double pair_of_turns(double turns, double theta, double dims, double length) {
  return dims * std::log(length / (turns * 2 * std::numbers::pi)) / (2 * std::log(theta));
}

}  // namespace

std::vector<float> rope_frequencies(double theta, size_t dims, const std::optional<Yarn>& yarn) {
  std::vector<float> frequencies(dims / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(dims);
    frequencies[i] = 1.0f / static_cast<float>(std::pow(theta, exponent));
  }
  if (yarn) blend_yarn(*yarn, theta, frequencies);
  return frequencies;
}

void blend_yarn(const Yarn& yarn, double theta, std::vector<float>& frequencies) {
  const double width = static_cast<double>(2 * frequencies.size());
  double low = pair_of_turns(yarn.beta_fast, theta, width, yarn.original_length);
  double high = pair_of_turns(yarn.beta_slow, theta, width, yarn.original_length);
  if (yarn.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(0.0, low);
  high = std::min(width - 1, high);
  if (high == low) high += 0.001;  // as the reference does
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float ramp =
        static_cast<float>(std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0));
    const float stretched = frequencies[i] / static_cast<float>(yarn.factor);
    frequencies[i] = stretched * ramp + frequencies[i] * (1 - ramp);
  }
}

Rope::Rope(const std::vector<float>& frequencies, size_t positions, RopePairing pairing, float factor)
    : pairs_(frequencies.size()), pairing_(pairing), turns_(positions * frequencies.size()) {
  for (size_t position = 0; position < positions; ++position) {
    for (size_t pair = 0; pair < pairs_; ++pair) {
      const float angle = static_cast<float>(position) * frequencies[pair];
      turns_[position * pairs_ + pair] = {static_cast<float>(std::cos(double{angle})) * factor,
                                          static_cast<float>(std::sin(double{angle})) * factor};
    }
  }
}

template <class T>
void Rope::rotate(T* x, size_t position, float direction) const {
  const Turn* turns = turns_.data() + position * pairs_;
  const auto turn = [&](T& first, T& second, size_t pair) {
    const float a = to_float(first), b = to_float(second);
    const float cos = turns[pair].cos, sin = direction * turns[pair].sin;
    first = from_float<T>(a * cos - b * sin);
    second = from_float<T>(a * sin + b * cos);
  };
  if (pairing_ == RopePairing::kInterleaved) {
    for (size_t pair = 0; pair < pairs_; ++pair) turn(x[2 * pair], x[2 * pair + 1], pair);
  } else {
    for (size_t pair = 0; pair < pairs_; ++pair) turn(x[pair], x[pair + pairs_], pair);
  }
}

template <class T>
void Rope::apply(T* x, size_t position) const {
  rotate(x, position, 1.0f);
}

template <class T>
void Rope::apply_inverse(T* x, size_t position) const {
  rotate(x, position, -1.0f);
}

template void Rope::apply(float*, size_t) const;
template void Rope::apply(bf16*, size_t) const;
template void Rope::apply_inverse(float*, size_t) const;
template void Rope::apply_inverse(bf16*, size_t) const;

}  // namespace nibblecast
