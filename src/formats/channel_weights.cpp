#include "formats/channel_weights.h"

#include <cassert>

namespace nibblecast {

std::vector<float> channel_weights(std::span<const float> moments) {
  double sum = 0;
  for (const float moment : moments) sum += moment;
  std::vector<float> weights(moments.size(), 1.0f);
  if (sum == 0) return weights;
  const double mean = sum / static_cast<double>(moments.size());
  for (size_t i = 0; i < moments.size(); ++i)
    weights[i] = static_cast<float>((moments[i] + kChannelFloor * mean) / mean);
  return weights;
}

std::vector<float> with_prior(std::span<const float> own, int64_t tokens, std::span<const float> prior) {
  assert(own.size() == prior.size() && tokens >= 0);
  std::vector<float> moments(own.size());
  const auto count = static_cast<double>(tokens);
  for (size_t i = 0; i < own.size(); ++i)
    moments[i] = static_cast<float>((count * own[i] + kPriorTokens * prior[i]) / (count + kPriorTokens));
  return moments;
}

std::vector<float> mean_of_experts(std::span<const float> moments, std::span<const int64_t> tokens) {
  assert(!tokens.empty() && moments.size() % tokens.size() == 0);
  const size_t cols = moments.size() / tokens.size();
  std::vector<double> sums(cols);
  double count = 0;
  for (size_t expert = 0; expert < tokens.size(); ++expert) {
    const auto own = static_cast<double>(tokens[expert]);
    count += own;
    for (size_t i = 0; i < cols; ++i) sums[i] += own * moments[expert * cols + i];
  }
  std::vector<float> mean(cols);
  for (size_t i = 0; i < cols && count > 0; ++i) mean[i] = static_cast<float>(sums[i] / count);
  return mean;
}

}  // namespace nibblecast
