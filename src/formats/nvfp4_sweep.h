// formats/nvfp4_sweep.h - which of the 126 block scales of a group has the least loss for a block of 16
// values, from as few of them as can have it. The same choice as trying all, to the bit of the float losses,
// ties included. Not for other folders. Everything has internal linkage: files of several instruction sets
// include it.
//
// With a the block's amax, s the scale, q the E2M1 numbers, and a loss that is a sum over the values of
// weight times squared error:
//
// Upwards. For s >= a / 6 the multiples q * s hold every point of the grid of 2s, 4s, ... that a value up to
// a can round to, so no scale that is a power of two times such an s can lose less than s does; in floats,
// where a value lies a rounding from the middle of two points, by no more than a few parts in a million. E4M3
// numbers double every eighth. So behind eight neighbours from a / 6 on, each of which loses a ten-thousandth
// more than the best, nothing is left to find; where one of them does not, its doubles are tried.
//
// Downwards. What exceeds 6s becomes 6s: the errors of those values alone are part of the loss (float sums of
// what is not negative never shrink by a term), and only grow as s falls. Below the s where they exceed the
// best nothing is left to find.
//
// Block, one for each instruction set (those of wide ones: formats/nvfp4_sweep_wide.h):
//
//   size_t start() const            the first scale with 6s >= a, or 125
//   Least window(size_t first)      of scales [first, first + 16), first <= 110: the first of the least loss
//   unsigned at_most(float loss)    bit i: the window's scale i has at most this loss
//   float loss(size_t k) const      under scale k
//   float floor(size_t k) const     what is lost at least under any of the scales 0 .. k
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/kernels.h"

namespace nibblecast {
namespace {

struct Least {
  float loss;
  size_t index;

  void take(float other, size_t at) {
    if (!(other < loss || (other == loss && at < index))) return;
    loss = other;
    index = at;
  }
};

constexpr size_t kWindow = 16;

// A loss up to this may be undercut by one that is larger but for roundings; sums of squares so small that
// they lose bits are all up to it.
inline float nearly(float least) { return least * 1.0001f + 0x1p-126f; }

template <class Block>
uint8_t sweep_every_scale(Block& block) {
  Least best{__builtin_inff(), kSweepScales};
  constexpr size_t kLastWindow = kSweepScales - kWindow;
  for (size_t next = 0; next < kSweepScales; next += kWindow) {
    const size_t first = next < kLastWindow ? next : kLastWindow;
    const Least found = block.window(first);
    best.take(found.loss, found.index);
  }
  return static_cast<uint8_t>(best.index);
}

template <class Block>
uint8_t sweep_block(Block& block, bool doubles) {
  if (!doubles) return sweep_every_scale(block);
  // The window is laid so that both ways are mostly closed: the best is seldom outside [start - 3, start +
  // 4].
  constexpr size_t kLast = kSweepScales - 1, kNormal = 7, kOctave = 8, kAbove = 12;
  const size_t start = block.start(), from = start < kNormal ? kNormal : start,
               last = from + kAbove < kLast ? from + kAbove : kLast;
  size_t first = last + 1 - kWindow;
  Least best = block.window(first);
  unsigned close = last < kLast ? block.at_most(nearly(best.loss)) >> kOctave : 0;
  for (; close != 0; close &= close - 1) {
    size_t k = first + kOctave + static_cast<size_t>(__builtin_ctz(close));
    for (float loss = best.loss; (k += kOctave) < kSweepScales && loss <= nearly(best.loss);) {
      loss = block.loss(k);
      best.take(loss, k);
    }
  }
  while (first > 0 && block.floor(first - 1) <= best.loss) {
    first = first < kWindow ? 0 : first - kWindow;
    const Least found = block.window(first);
    best.take(found.loss, found.index);
  }
  return static_cast<uint8_t>(best.index);
}

}  // namespace
}  // namespace nibblecast
