#include "ops/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/parallel.h"
#include "ops/linear.h"
#include "ops/panel.h"

namespace nibblecast {
namespace {

template <class T>
std::vector<T> random_values(size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<T> values(count);
  for (T& value : values) value = from_float<T>(normal(generator));
  return values;
}

// A sum of k FP32 products in any order is off by at most (k + 2) * 2^-24 of the sum of their magnitudes
// (Higham, Accuracy and Stability of Numerical Algorithms, 3.1); BF16 instructions add pairs with a rounding
// of their own, hence the factor 2.
template <class T>
void expect_close(const TileShape& shape, const std::vector<T>& x, const std::vector<T>& w,
                  const float* found) {
  std::vector<T> x_size = x, w_size = w;
  for (T& value : x_size) value = from_float<T>(std::abs(to_float(value)));
  for (T& value : w_size) value = from_float<T>(std::abs(to_float(value)));
  const bool output_major = shape.layout == WeightLayout::kOutputMajor;
  const size_t stride = output_major ? shape.k : shape.n;
  std::vector<float> expected(shape.m * shape.n), size(expected.size());
  matmul_tile_ref(shape, x.data(), shape.k, w.data(), stride, expected.data());
  matmul_tile_ref(shape, x_size.data(), shape.k, w_size.data(), stride, size.data());
  for (size_t i = 0; i < expected.size(); ++i) {
    const float bound = 2 * static_cast<float>(shape.k + 2) * 0x1p-24f * size[i];
    ASSERT_TRUE(std::abs(found[i] - expected[i]) <= bound)
        << i << " of m " << shape.m << " n " << shape.n << " k " << shape.k << ": " << found[i] << " for "
        << expected[i];
  }
}

template <class T>
class Matmul : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(Matmul, Types);

TYPED_TEST(Matmul, MatchesReference) {
  for (const size_t m : {1, 15, 16, 17, 100, 128}) {
    for (const size_t n : {1, 24, 64, 100}) {
      for (const size_t k : {1, 31, 64, 257}) {
        for (const WeightLayout layout : {WeightLayout::kOutputMajor, WeightLayout::kInputMajor}) {
          const TileShape shape{m, n, k, layout};
          const auto x = random_values<TypeParam>(m * k, 1), w = random_values<TypeParam>(n * k, 2);
          std::vector<float> y(m * n, NAN);
          matmul_tile(shape, x.data(), k, w.data(), layout == WeightLayout::kOutputMajor ? k : n, y.data());
          expect_close(shape, x, w, y.data());
        }
      }
    }
  }
}

TYPED_TEST(Matmul, ARowDoesNotDependOnTheOthers) {
  if (!rows_stand_alone<TypeParam>()) GTEST_SKIP() << "on this CPU it may (ops/matmul.h)";
  const size_t m = kTileRows, n = 64, k = 7168;
  const auto x = random_values<TypeParam>(m * k, 3), w = random_values<TypeParam>(n * k, 4);
  std::vector<float> whole(m * n);
  matmul_tile({m, n, k}, x.data(), k, w.data(), k, whole.data());
  for (const size_t count : {1, 16, 37, 64, 80}) {
    std::vector<float> part(count * n);
    matmul_tile({count, n, k}, x.data() + 5 * k, k, w.data(), k, part.data());
    EXPECT_EQ(std::memcmp(part.data(), whole.data() + 5 * n, part.size() * sizeof(float)), 0) << count;
  }
}

TYPED_TEST(Matmul, TakesStrides) {
  const size_t m = 20, n = 8, k = 32, stride = 50;
  const auto x = random_values<TypeParam>(m * stride, 5), w = random_values<TypeParam>(n * stride, 6);
  std::vector<float> y(m * n), expected(m * n);
  matmul_tile({m, n, k}, x.data(), stride, w.data(), stride, y.data());
  matmul_tile_ref({m, n, k}, x.data(), stride, w.data(), stride, expected.data());
  for (size_t i = 0; i < y.size(); ++i) EXPECT_NEAR(y[i], expected[i], 1e-4) << i;
}

// Stored weights of one shape in every form.
struct Weights {
  explicit Weights(size_t rows, size_t cols)
      : codes(rows * cols), tile_scales((rows + 127) / 128 * ((cols + 127) / 128)), scales(rows * cols / 32) {
    std::mt19937 generator(7);
    for (uint8_t& code : codes) code = static_cast<uint8_t>(generator() & 0xf7);  // no NaN
    for (uint8_t& scale : tile_scales) scale = static_cast<uint8_t>(115 + generator() % 8);
    for (uint8_t& scale : scales) scale = static_cast<uint8_t>(115 + generator() % 8);
    floats = random_values<float>(rows * cols, 8);
    halves = random_values<bf16>(rows * cols, 9);
    views = {Bf16View{halves.data(), rows, cols}, F32View{floats.data(), rows, cols},
             Fp8BlockView{.codes = codes.data(), .scales = tile_scales.data(), .rows = rows, .cols = cols},
             Mxfp4View{codes.data(), scales.data(), rows, cols}};
  }
  std::vector<uint8_t> codes, tile_scales, scales;
  std::vector<float> floats;
  std::vector<bf16> halves;
  std::vector<WeightView> views;
};

TEST(Panel, IsTheReferencesLayout) {
  if (!packs_panels<bf16>()) GTEST_SKIP() << "this CPU has no BF16 products";
  for (const size_t k : {32, 96, 128, 160, 512}) {
    const Weights weights(200, k);
    for (const WeightView& view : weights.views) {
      for (const auto& [row, count] :
           {std::pair<size_t, size_t>(0, 64), {64, 64}, {128, 64}, {192, 8}, {3, 1}}) {
        std::vector<bf16> rows(count * k), found(panel_size(k)), expected(panel_size(k));
        read_weight(view, row, count, rows.data());
        pack_panel_ref(rows.data(), count, k, expected.data());
        read_panel(view, row, count, found.data());
        ASSERT_EQ(std::memcmp(found.data(), expected.data(), found.size() * sizeof(bf16)), 0)
            << "form " << view.index() << " k " << k << " rows " << row << " + " << count;
      }
    }
  }
}

TEST(Panel, TakesEveryScale) {
  if (!packs_panels<bf16>()) GTEST_SKIP() << "this CPU has no BF16 products";
  for (int scale = 0; scale < 255; ++scale) {  // 255 is NaN, whose bits are not compared
    Weights weights(kPanel, 32);
    for (uint8_t& value : weights.scales) value = static_cast<uint8_t>(scale);
    std::vector<bf16> rows(kPanel * 32), found(panel_size(32)), expected(panel_size(32));
    dequantize_mxfp4_ref(std::get<Mxfp4View>(weights.views[3]), 0, kPanel, rows.data(), 32);
    pack_panel_ref(rows.data(), kPanel, 32, expected.data());
    read_panel(weights.views[3], 0, kPanel, found.data());
    ASSERT_EQ(std::memcmp(found.data(), expected.data(), found.size() * sizeof(bf16)), 0) << scale;
  }
}

TEST(Panel, TakesEveryFp8CodeAndScale) {
  if (!packs_panels<bf16>()) GTEST_SKIP() << "this CPU has no BF16 products";
  const size_t k = 256;
  std::vector<uint8_t> codes(kPanel * k);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i % k + i / k);
  for (int scale = 0; scale <= 255; ++scale) {
    const uint8_t scales[] = {static_cast<uint8_t>(scale), 127};
    const Fp8BlockView view{.codes = codes.data(), .scales = scales, .rows = kPanel, .cols = k};
    std::vector<bf16> rows(kPanel * k), found(panel_size(k)), expected(panel_size(k));
    dequantize_fp8_block_ref(view, 0, kPanel, rows.data(), k);
    pack_panel_ref(rows.data(), kPanel, k, expected.data());
    read_panel(view, 0, kPanel, found.data());
    ASSERT_EQ(std::memcmp(found.data(), expected.data(), found.size() * sizeof(bf16)), 0) << scale;
  }
}

TYPED_TEST(Matmul, LinearsMatchTheReference) {
  const size_t rows = 150, outputs = 200, k = 96;
  const Weights weights(outputs, k);
  const auto x = random_values<TypeParam>(rows * k, 10);
  for (const WeightView& view : weights.views) {
    std::vector<TypeParam> w(outputs * k);
    read_weight(view, 0, outputs, w.data());
    std::vector<float> y(rows * outputs, NAN);
    linear(x.data(), rows, view, y.data());
    expect_close({rows, outputs, k}, x, w, y.data());
    if (!rows_stand_alone<TypeParam>()) continue;
    // A range of the outputs is what it is in the whole.
    std::vector<float> part(rows * 70, NAN);
    linear(x.data(), rows, k, view, {64, 70}, part.data(), 70);
    for (size_t row = 0; row < rows; ++row) {
      ASSERT_EQ(std::memcmp(&part[row * 70], &y[row * outputs + 64], 70 * sizeof(float)), 0) << row;
    }
  }
}

TYPED_TEST(Matmul, LinearsDoNotDependOnThreads) {
  const size_t rows = 300, outputs = 500, k = 256;
  const Weights weights(outputs, k);
  const auto x = random_values<TypeParam>(rows * k, 11);
  std::vector<std::vector<float>> results;
  for (const size_t threads : {1, 2, 5}) {
    const ThreadLimit limit(threads);
    results.emplace_back(rows * outputs);
    linear(x.data(), rows, weights.views[3], results.back().data());
    EXPECT_EQ(std::memcmp(results.back().data(), results[0].data(), results[0].size() * sizeof(float)), 0)
        << threads;
  }
}

}  // namespace
}  // namespace nibblecast
