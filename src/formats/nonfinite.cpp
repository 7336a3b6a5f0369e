#include "formats/nonfinite.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>

namespace nibblecast {
namespace {

constexpr size_t kBlock = 4096;  // values: while none of them is found, only whether there is one is asked

template <class Bits>
Bits load(const std::byte* from, size_t index) {
  Bits bits;
  std::memcpy(&bits, from + index * sizeof(Bits), sizeof bits);
  return bits;
}

// One plain loop without exits, for the vectorizer.
template <class Bits>
bool any(const std::byte* values, size_t count, Bits exponent) {
  Bits found = 0;
  for (size_t i = 0; i < count; ++i)
    found = static_cast<Bits>(found | ((load<Bits>(values, i) & exponent) == exponent));
  return found != 0;
}

// Values whose bits of `exponent` are all set.
template <class Bits>
NonFinite count_set(std::span<const std::byte> bytes, Bits exponent) {
  assert(bytes.size() % sizeof(Bits) == 0);
  NonFinite all;
  const size_t count = bytes.size() / sizeof(Bits);
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const std::byte* const block = bytes.data() + begin * sizeof(Bits);
    const size_t size = std::min(kBlock, count - begin);
    if (!any<Bits>(block, size, exponent)) continue;
    for (size_t i = 0; i < size; ++i) {
      if ((load<Bits>(block, i) & exponent) == exponent) all.add({1, 0}, (begin + i) * sizeof(Bits));
    }
  }
  return all;
}

template <class Bits, class IsDamaged>
NonFinite count_if(std::span<const std::byte> bytes, const IsDamaged& is_damaged) {
  NonFinite all;
  for (size_t i = 0; i < bytes.size() / sizeof(Bits); ++i) {
    if (is_damaged(load<Bits>(bytes.data(), i))) all.add({1, 0}, i * sizeof(Bits));
  }
  return all;
}

}  // namespace

NonFinite count_nonfinite(Dtype dtype, std::span<const std::byte> bytes) {
  switch (dtype) {
    case Dtype::kF8E4M3:
      return count_set<uint8_t>(bytes, 0x7f);
    case Dtype::kF8E5M2:
      return count_set<uint8_t>(bytes, 0x7c);
    case Dtype::kF8E8M0:
      return count_set<uint8_t>(bytes, 0xff);
    case Dtype::kF16:
      return count_set<uint16_t>(bytes, 0x7c00);
    case Dtype::kBF16:
      return count_set<uint16_t>(bytes, 0x7f80);
    case Dtype::kF32:
      return count_set<uint32_t>(bytes, 0x7f800000);
    case Dtype::kF64:
      return count_set<uint64_t>(bytes, 0x7ff0000000000000);
    default:
      return {};
  }
}

NonFinite count_nonfinite_ref(Dtype dtype, std::span<const std::byte> bytes) {
  switch (dtype) {
    case Dtype::kF8E4M3:
      return count_if<uint8_t>(bytes, [](uint8_t bits) { return bits == 0x7f || bits == 0xff; });
    case Dtype::kF8E5M2:
      return count_if<uint8_t>(bytes, [](uint8_t bits) { return bits % 128 >= 0x7c; });
    case Dtype::kF8E8M0:
      return count_if<uint8_t>(bytes, [](uint8_t bits) { return bits == 255; });
    case Dtype::kF16:
      return count_if<uint16_t>(bytes, [](uint16_t bits) { return bits % 0x8000 >= 0x7c00; });
    case Dtype::kBF16:
      return count_if<uint16_t>(
          bytes, [](uint16_t bits) { return !std::isfinite(std::bit_cast<float>(uint32_t{bits} << 16)); });
    case Dtype::kF32:
      return count_if<float>(bytes, [](float value) { return !std::isfinite(value); });
    case Dtype::kF64:
      return count_if<double>(bytes, [](double value) { return !std::isfinite(value); });
    default:
      return {};
  }
}

}  // namespace nibblecast
