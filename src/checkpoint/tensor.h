// checkpoint/tensor.h - what a safetensors header says of a tensor.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibblecast {

// The dtypes of the safetensors format (huggingface/safetensors, README "Format" and tensor.rs), in its
// order. F6 is refused by name when a header holds it.
enum class Dtype {
  kBool,
  kF4,  // E2M1, two a byte, the first in the low half; shapes count values
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kF64,
  kI64,
  kU64,
};

std::string_view dtype_name(Dtype dtype);  // "F8_E4M3"
std::optional<Dtype> parse_dtype(std::string_view name);
uint64_t dtype_bytes(Dtype dtype);  // of a value; of kF4, of two
// Of `count` values in a row; nothing where that is no whole number of bytes, or more than 2^63 - 1.
std::optional<uint64_t> stored_bytes(Dtype dtype, uint64_t count);

using Shape = std::vector<uint64_t>;
std::string shape_text(const Shape& shape);  // "[256, 128]"; "[]" for a scalar
// Product of the dimensions (1 for a scalar); nullopt when it exceeds 2^63 - 1.
std::optional<uint64_t> element_count(const Shape& shape);

struct Tensor {
  std::string name = {};
  Dtype dtype = Dtype::kU8;
  Shape shape = {};
  uint32_t shard = 0;       // index into Checkpoint::shards()
  uint64_t offset = 0;      // of the first byte, in the shard file
  uint64_t size_bytes = 0;  // = stored_bytes(dtype, element count)

  uint64_t end() const { return offset + size_bytes; }
};

}  // namespace nibblecast
