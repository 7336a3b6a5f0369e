// ops/compressor.h - DeepSeek-V4's compressed keys: a window of `ratio` tokens becomes one entry, by a
// softmax over the window's tokens in each channel. FP32; norm, RoPE and rounding are the
// caller's. (DeepSeek-V4 inference/model.py, Compressor)
//
// Without overlap (HCA): entry i, channel c = sum over the window's tokens p of softmax_p(gate[p, c]) *
// value[p, c]. With overlap (CSA) there are 2 * dim channels and twice the slots: the tokens of window i - 1
// with channel c, then those of window i with channel dim + c; the first window has no predecessor.
#pragma once

#include <cstddef>

namespace nibblecast {

struct CompressorShape {
  size_t ratio = 0, dim = 0;
  bool overlap = false;
  constexpr size_t channels() const { return overlap ? 2 * dim : dim; }
};

// values, gates [tokens of the row, channels]; ape [ratio, channels] is added to the gates by position in the
// window. Entry `entry` (its whole window must be in the row) to out [dim].
void compress_window(const CompressorShape& shape, const float* values, const float* gates, const float* ape,
                     size_t entry, float* out);

void compress_window_ref(const CompressorShape& shape, const float* values, const float* gates,
                         const float* ape, size_t entry, float* out);

}  // namespace nibblecast
