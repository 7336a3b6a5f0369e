#include "ops/compressor.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/exp.h"

namespace nibblecast {
namespace {

constexpr size_t kChannelBlock = 64;

// Tokens and channel offset of one of the windows that make an entry.
struct Slots {
  size_t first_token, channel;
};

size_t windows_of(const CompressorShape& shape, size_t entry, Slots* windows) {
  size_t count = 0;
  if (shape.overlap && entry > 0) windows[count++] = {(entry - 1) * shape.ratio, 0};
  windows[count++] = {entry * shape.ratio, shape.overlap ? shape.dim : 0};
  return count;
}

}  // namespace

void compress_window(const CompressorShape& shape, const float* values, const float* gates, const float* ape,
                     size_t entry, float* out) {
  Slots windows[2];
  const size_t count = windows_of(shape, entry, windows);
  const size_t stride = shape.channels();
  for (size_t begin = 0; begin < shape.dim; begin += kChannelBlock) {
    const size_t width = std::min(kChannelBlock, shape.dim - begin);
    float largest[kChannelBlock], total[kChannelBlock] = {}, sum[kChannelBlock] = {};
    std::fill_n(largest, width, -std::numeric_limits<float>::infinity());
    const auto each_slot = [&](const auto& f) {
      for (size_t window = 0; window < count; ++window) {
        for (size_t slot = 0; slot < shape.ratio; ++slot) {
          const size_t channel = windows[window].channel + begin;
          const size_t at = (windows[window].first_token + slot) * stride + channel;
          f(gates + at, ape + slot * stride + channel, values + at);
        }
      }
    };
    each_slot([&](const float* gate, const float* bias, const float*) {
      for (size_t i = 0; i < width; ++i) largest[i] = std::max(largest[i], gate[i] + bias[i]);
    });
    each_slot([&](const float* gate, const float* bias, const float* value) {
      for (size_t i = 0; i < width; ++i) {
        const float weight = exp_f32(gate[i] + bias[i] - largest[i]);
        total[i] += weight;
        sum[i] += weight * value[i];
      }
    });
    for (size_t i = 0; i < width; ++i) out[begin + i] = sum[i] / total[i];
  }
}

void compress_window_ref(const CompressorShape& shape, const float* values, const float* gates,
                         const float* ape, size_t entry, float* out) {
  Slots windows[2];
  const size_t count = windows_of(shape, entry, windows);
  for (size_t channel = 0; channel < shape.dim; ++channel) {
    double total = 0, sum = 0;
    for (size_t window = 0; window < count; ++window) {
      for (size_t slot = 0; slot < shape.ratio; ++slot) {
        const size_t column = windows[window].channel + channel;
        const size_t at = (windows[window].first_token + slot) * shape.channels() + column;
        const double weight = std::exp(double{gates[at]} + double{ape[slot * shape.channels() + column]});
        total += weight;
        sum += weight * double{values[at]};
      }
    }
    out[channel] = static_cast<float>(sum / total);
  }
}

}  // namespace nibblecast
