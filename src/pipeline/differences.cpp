#include "pipeline/differences.h"

#include <cstring>

namespace nibblecast {

Difference compare_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  Difference difference;
  if (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0) return difference;
  for (size_t at = 0; at < a.size(); ++at) {
    if (a[at] == b[at]) continue;
    if (difference.bytes++ == 0) difference.first = at;
  }
  return difference;
}

void Differences::add(uint32_t tensor, uint64_t begin, const Difference& difference) {
  if (difference.bytes == 0) return;
  Difference& sum = by_tensor_[tensor];
  if (sum.bytes == 0 || begin + difference.first < sum.first) sum.first = begin + difference.first;
  sum.bytes += difference.bytes;
}

}  // namespace nibblecast
