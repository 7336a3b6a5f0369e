// tests/formats/isa_test.h - one suite, run once for each instruction set that this CPU and build have.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/cpu_isa.h"

namespace nibblecast::testing {

class IsaTest : public ::testing::TestWithParam<CpuIsa> {
 protected:
  void SetUp() override { set_cpu_isa(cpu_isa_name(GetParam())); }
  void TearDown() override { set_cpu_isa("auto"); }
};

inline std::vector<CpuIsa> available_isas() {
  std::vector<CpuIsa> isas;
  for (const CpuIsa isa : {CpuIsa::kScalar, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (isa <= detect_cpu_isa()) isas.push_back(isa);
  }
  return isas;
}

#define INSTANTIATE_FOR_EVERY_ISA(suite)                                                             \
  INSTANTIATE_TEST_SUITE_P(Isa, suite, ::testing::ValuesIn(::nibblecast::testing::available_isas()), \
                           [](const auto& isa) { return std::string(cpu_isa_name(isa.param)); })

// Index of the first element whose bits differ; `count` where none does. Compares NaNs too.
template <class T>
size_t first_difference(const T* a, const T* b, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (std::memcmp(a + i, b + i, sizeof(T)) != 0) return i;
  }
  return count;
}

// The bytes 0, 1, ... of a fixed pseudo-random sequence.
inline std::vector<uint8_t> random_bytes(size_t count, uint32_t seed) {
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) {
    seed = seed * 1664525u + 1013904223u;
    byte = static_cast<uint8_t>(seed >> 24);
  }
  return bytes;
}

}  // namespace nibblecast::testing
