// tests/ops/golden.h - what tools/make_decoder_golden.py wrote.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "formats/bf16.h"

namespace nibblecast::testing {

inline const Json& decoder_golden() {
  static const std::string file = std::string(NIBBLECAST_SOURCE_DIR) + "/tests/ops/golden/decoder.json";
  static const Json golden = parse_json(read_text(system_files(), file, 1 << 20), file);
  return golden;
}

// F32 in hexadecimal, little-endian.
inline std::vector<float> floats(const Json& hexadecimal) {
  const std::string text = hexadecimal;
  std::vector<float> values;
  for (size_t i = 0; i + 8 <= text.size(); i += 8) {
    uint32_t bits = 0;
    for (size_t byte = 0; byte < 4; ++byte)
      bits |= static_cast<uint32_t>(std::stoul(text.substr(i + 2 * byte, 2), nullptr, 16)) << 8 * byte;
    values.push_back(std::bit_cast<float>(bits));
  }
  return values;
}

// Within `slack` of the largest, and where T is BF16 its rounding beside the golden value's own.
template <class T>
void expect_golden(const std::vector<T>& found, const std::vector<float>& expected, float slack,
                   const std::string& name) {
  ASSERT_EQ(found.size(), expected.size()) << name;
  float largest = 0;
  for (const float value : expected) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < found.size(); ++i) {
    const float own = std::abs(expected[i]) * (sizeof(T) == 2 ? 0x1p-7f : 0x1p-21f);
    ASSERT_TRUE(std::abs(to_float(found[i]) - expected[i]) <= own + slack * largest)
        << name << " " << i << ": " << to_float(found[i]) << ", not " << expected[i];
  }
}

}  // namespace nibblecast::testing
