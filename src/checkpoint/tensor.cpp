#include "checkpoint/tensor.h"

#include <array>
#include <limits>

namespace nibblecast {
namespace {

struct DtypeRow {
  std::string_view name;
  uint64_t bytes;
};

// In the order of the enum.
constexpr std::array<DtypeRow, 17> kDtypes = {{
    {"BOOL", 1},
    {"F4", 1},
    {"U8", 1},
    {"I8", 1},
    {"F8_E5M2", 1},
    {"F8_E4M3", 1},
    {"F8_E8M0", 1},
    {"I16", 2},
    {"U16", 2},
    {"F16", 2},
    {"BF16", 2},
    {"I32", 4},
    {"U32", 4},
    {"F32", 4},
    {"F64", 8},
    {"I64", 8},
    {"U64", 8},
}};
static_assert(static_cast<size_t>(Dtype::kU64) + 1 == kDtypes.size());

}  // namespace

std::string_view dtype_name(Dtype dtype) { return kDtypes[static_cast<size_t>(dtype)].name; }

uint64_t dtype_bytes(Dtype dtype) { return kDtypes[static_cast<size_t>(dtype)].bytes; }

std::optional<uint64_t> stored_bytes(Dtype dtype, uint64_t count) {
  constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
  if (dtype == Dtype::kF4) return count % 2 == 0 ? std::optional(count / 2) : std::nullopt;
  if (count > kMost / dtype_bytes(dtype)) return std::nullopt;
  return count * dtype_bytes(dtype);
}

std::optional<Dtype> parse_dtype(std::string_view name) {
  for (size_t row = 0; row < kDtypes.size(); ++row) {
    if (kDtypes[row].name == name) return static_cast<Dtype>(row);
  }
  return std::nullopt;
}

std::string shape_text(const Shape& shape) {
  std::string text = "[";
  for (const uint64_t dimension : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(dimension);
  }
  return text + "]";
}

std::optional<uint64_t> element_count(const Shape& shape) {
  constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
  uint64_t count = 1;
  for (const uint64_t dimension : shape) {
    if (dimension != 0 && count > kMost / dimension) return std::nullopt;
    count *= dimension;
  }
  return count;
}

}  // namespace nibblecast
