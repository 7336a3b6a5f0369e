// Activations rounded to NVFP4 and back, against ModelOpt's fake quantization to the byte
// (tools/make_nvfp4_input_golden.py).
#include "formats/nvfp4_input.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "formats/bf16.h"
#include "hex.h"

namespace nibblecast {
namespace {

template <class T>
void expect_golden(const Json& golden) {
  const auto values_of = [&](const char* key) {
    const std::vector<uint8_t> bytes = testing::from_hex(golden.at(key).get<std::string>());
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  };
  std::vector<T> found = values_of("x");
  const std::vector<T> expected = values_of("y");
  round_nvfp4_input(found.data(), found.size(), golden.at("input_scale").get<float>(), found.data());
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i)
    ASSERT_EQ(std::memcmp(&found[i], &expected[i], sizeof(T)), 0)
        << i << ": " << to_float(found[i]) << ", not " << to_float(expected[i]);
}

TEST(Nvfp4Input, HasModelOptsBytes) {
  const std::string file = std::string(NIBBLECAST_SOURCE_DIR) + "/tests/formats/golden/nvfp4_input.json";
  const Json golden = parse_json(read_text(system_files(), file, 1 << 20), file);
  for (const Json& one : golden.at("cases")) {
    SCOPED_TRACE(one.at("dtype").get<std::string>() + " " + one.at("input_scale").dump());
    one.at("dtype") == "float32" ? expect_golden<float>(one) : expect_golden<bf16>(one);
  }
}

// Of many magnitudes and scales, and where the middles between two values of the grid are hit.
template <class T>
void expect_reference() {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  constexpr float kMiddles[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f, 6.0f};
  for (const float input_scale : {1e-6f, 0.003f, 0.5f, 1.0f, 77.7f, 1e30f}) {
    std::vector<T> x;
    for (size_t i = 0; i < 16 * 4096; ++i) {
      const float size = std::exp2(static_cast<float>(i / 16 % 40) - 20) * input_scale * 40;
      const float middle = kMiddles[random() % 8] * (random() % 2 == 0 ? 1.0f : -1.0f);
      const float value =
          i / 16 % 3 == 0 ? middle * std::exp2(std::floor(std::log2(size))) : normal(random) * size;
      x.push_back(from_float<T>(i % 37 == 0 ? -0.0f : value));
    }
    std::vector<T> own(x.size()), reference(x.size());
    EXPECT_EQ(round_nvfp4_input(x.data(), x.size(), input_scale, own.data()),
              round_nvfp4_input_ref(x.data(), x.size(), input_scale, reference.data()));
    EXPECT_EQ(std::memcmp(own.data(), reference.data(), own.size() * sizeof(T)), 0) << input_scale;
  }
}

TEST(Nvfp4Input, HasTheReferencesBits) {
  expect_reference<float>();
  expect_reference<bf16>();
}

TEST(Nvfp4Input, CountsBlocksThatSaturate) {
  std::vector<float> x(48, 1.0f);
  x[3] = 2688, x[20] = -2689, x[40] = 1e9f;
  EXPECT_EQ(round_nvfp4_input(x.data(), x.size(), 1.0f, x.data()), 2);
  EXPECT_EQ(x[3], 2688);
  EXPECT_EQ(x[20], -2688);
  EXPECT_EQ(x[40], 2688);
  EXPECT_EQ(x[41], 0);  // beside it nothing is left of 1
}

TEST(Nvfp4Input, WhatIsOnTheGridStays) {
  std::vector<float> x;
  for (const float value :
       {0.f, 0.5f, 1.f, 1.5f, 2.f, 3.f, 4.f, 6.f, -0.5f, -1.f, -1.5f, -2.f, -3.f, -4.f, -6.f, 1.f})
    x.push_back(value);
  const std::vector<float> before = x;
  EXPECT_EQ(round_nvfp4_input(x.data(), x.size(), 1.0f, x.data()), 0);
  EXPECT_EQ(x, before);
}

}  // namespace
}  // namespace nibblecast
