// tests/formats/hex.h - the hexadecimal bytes of golden files.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "formats/bf16.h"

namespace nibblecast::testing {

inline std::vector<uint8_t> from_hex(const std::string& text) {
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < text.size(); i += 2)
    bytes.push_back(static_cast<uint8_t>(std::stoi(text.substr(i, 2), nullptr, 16)));
  return bytes;
}

inline std::vector<bf16> bf16_from_hex(const std::string& text) {
  const std::vector<uint8_t> bytes = from_hex(text);
  std::vector<bf16> values(bytes.size() / sizeof(bf16));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(bf16));
  return values;
}

}  // namespace nibblecast::testing
