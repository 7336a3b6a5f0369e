#include "ops/block_amaxes.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/parallel.h"

namespace nibblecast {
namespace {

constexpr size_t kBlock = 16;
constexpr size_t kBlocksAtOnce = 512 << 10;
constexpr size_t kMagnitudes = 0x8001;  // of BF16, NaN among them, and what it rounds up to

// Bits of magnitudes order as the magnitudes do, NaN last.
template <class T>
uint32_t block_bits(const T* x) {
  uint32_t most = 0;
  for (size_t i = 0; i < kBlock; ++i)
    most = std::max(most, std::bit_cast<uint32_t>(to_float(x[i])) & 0x7fffffff);
  return (most + 0xffff) >> 16;
}

}  // namespace

template <class T>
void BlockAmaxes::add(const T* x, size_t rows, size_t width) {
  counts_.resize(kMagnitudes);
  const size_t each = width / kBlock, step = std::max<size_t>(1, kBlocksAtOnce / std::max<size_t>(1, each));
  std::vector<uint16_t> found;
  for (size_t begin = 0; begin < rows; begin += step) {
    found.resize(std::min(step, rows - begin) * each);
    parallel_for(found.size() / std::max<size_t>(1, each), [&](size_t row) {
      for (size_t block = 0; block < each; ++block)
        found[row * each + block] =
            static_cast<uint16_t>(block_bits(x + (begin + row) * width + block * kBlock));
    });
    for (const uint16_t bits : found) ++counts_[bits];
  }
}

uint64_t BlockAmaxes::blocks() const {
  uint64_t sum = 0;
  for (const uint64_t count : counts_) sum += count;
  return sum;
}

float BlockAmaxes::percentile(double share) const {
  if (counts_.empty()) return 0;
  const uint64_t blocks = this->blocks() - counts_[0];
  const auto wanted = static_cast<uint64_t>(std::ceil(share * static_cast<double>(blocks)));
  uint64_t seen = 0;
  for (uint32_t bits = 1; bits < kMagnitudes; ++bits) {
    seen += counts_[bits];
    if (seen > 0 && seen >= wanted) return std::bit_cast<float>(bits << 16);
  }
  return 0;
}

template void BlockAmaxes::add(const float*, size_t, size_t);
template void BlockAmaxes::add(const bf16*, size_t, size_t);

}  // namespace nibblecast
