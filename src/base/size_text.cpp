#include "base/size_text.h"

#include <fmt/format.h>

#include <array>
#include <string_view>

namespace nibblecast {
namespace {

constexpr std::array<std::string_view, 5> kBinaryUnits = {"bytes", "KiB", "MiB", "GiB", "TiB"};

}  // namespace

std::string grouped(uint64_t number) {
  std::string text = std::to_string(number);
  for (size_t at = text.size(); at > 3;) text.insert(at -= 3, ",");
  return text;
}

std::string size_text(uint64_t bytes) {
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kBinaryUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} bytes", bytes) : fmt::format("{:.1f} {}", value, kBinaryUnits[unit]);
}

std::string shortage_text(uint64_t needed, const std::string& between, uint64_t there) {
  // To the byte, as a small shortage would vanish between two sizes that are rounded alike.
  return fmt::format("needs {} {} {}: {} bytes short", size_text(needed), between, size_text(there),
                     grouped(needed - there));
}

}  // namespace nibblecast
