// formats/channel_weights.h - what WeightMethod::kWmse multiplies squared errors with, from the second
// moments of what enters a linear: the mean of x^2 of each channel (LayerAmax::second_moments). An error in a
// weight changes the output by the error times x, so its mean square is the squared error times that moment.
//
// A channel that calibration never saw fire has a moment of 0, and blocks of such channels no loss at all:
// hence a floor of a hundredth of the mean. An expert that saw few tokens has moments of noise: hence a
// prior, the layer's own, which counts as many tokens as kPriorTokens. (Both as in docs/methods.md, which
// says where from.)
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nibblecast {

inline constexpr double kChannelFloor = 0.01;
inline constexpr double kPriorTokens = 256;

// moments [cols], finite and not negative -> (moment + kChannelFloor * mean) / mean, mean over the columns;
// all 1 where all moments are 0. In double, columns ascending, rounded once: finite, from 0.01 to cols +
// 0.01.
std::vector<float> channel_weights(std::span<const float> moments);

// Moments of an expert that saw `tokens`: (tokens * own + kPriorTokens * prior) / (tokens + kPriorTokens).
// `own` and `prior` are as long.
std::vector<float> with_prior(std::span<const float> own, int64_t tokens, std::span<const float> prior);

// The mean over all tokens of experts' moments [experts, cols], by each one's tokens; all 0 where there are
// none.
std::vector<float> mean_of_experts(std::span<const float> moments, std::span<const int64_t> tokens);

}  // namespace nibblecast
