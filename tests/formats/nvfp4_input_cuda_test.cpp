// The device rounds inputs of linears as the CPU does, to the bit.
#include "formats/nvfp4_input_cuda.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "cuda_testing.h"
#include "formats/bf16.h"
#include "formats/nvfp4_input.h"

namespace nibblecast {
namespace {

template <class T>
void expect_equal_bits(float input_scale) {
  std::mt19937 generator(3);
  std::normal_distribution<float> normal(0, 1);
  std::vector<T> x(16 * 1000);
  for (size_t i = 0; i < x.size(); ++i)
    x[i] = from_float<T>(normal(generator) * std::exp(3 * normal(generator)) * input_scale * 200);
  for (size_t i = 0; i < 32; ++i) x[i] = from_float<T>(i % 2 == 0 ? 0.0f : -0.0f);
  std::vector<T> expected(x.size());
  round_nvfp4_input(x.data(), x.size(), input_scale, expected.data());
  auto on_device = testing::uploaded(x);
  CudaStream stream;
  round_nvfp4_input_cuda<T>(stream, on_device.data(), x.size(), input_scale, on_device.data());
  stream.synchronize();
  const std::vector<T> found = testing::downloaded(on_device);
  EXPECT_EQ(std::memcmp(found.data(), expected.data(), x.size() * sizeof(T)), 0) << input_scale;
}

TEST(Nvfp4InputCuda, HasTheBitsOfTheCpu) {
  SKIP_WITHOUT_CUDA();
  for (const float input_scale : {1.0f, 1 / 2688.0f, 0.0123f, 3e-6f}) {
    expect_equal_bits<float>(input_scale);
    expect_equal_bits<bf16>(input_scale);
  }
}

}  // namespace
}  // namespace nibblecast
