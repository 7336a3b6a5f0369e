// pipeline/differences.h - bytes that should be equal, and where they are not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>

namespace nibblecast {

struct Difference {
  uint64_t bytes = 0, first = 0;
};

// Of spans of one size.
Difference compare_bytes(std::span<const std::byte> a, std::span<const std::byte> b);

// By tensor: sums over its parts, `first` within the tensor.
class Differences {
 public:
  // Of the part that begins at `begin`.
  void add(uint32_t tensor, uint64_t begin, const Difference& difference);
  const std::map<uint32_t, Difference>& by_tensor() const { return by_tensor_; }

 private:
  std::map<uint32_t, Difference> by_tensor_;
};

}  // namespace nibblecast
