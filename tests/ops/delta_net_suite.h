// tests/ops/delta_net_suite.h - gated delta nets and gates of whole groups of rows, on whatever they run,
// stay near their definitions in double.
//
// A backend gives
//   set_up()                                     may skip the test
//   run<T>(case, chunk)                          -> Rows<T>: all rows at once, or the only one in chunks of
//   so
//                                                   many tokens
//   copy_columns<T>(x, x_width, blocks, y_stride) -> y, 0 where nothing is copied
//   gate_elements<T>(gates, x)                   -> Rows<T>
//   gate_rows<T>(x, weight, y)                   -> y
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "ops/amax.h"
#include "ops/delta_net.h"
#include "ops/gates.h"
#include "ops/suites.h"

namespace nibblecast::testing {

struct DeltaNetCase {
  DeltaNetShape shape;
  std::vector<size_t> lengths;                        // of the rows
  std::vector<float> x = {}, z = {}, a = {}, b = {};  // all rows, one after the other
  std::vector<float> filter = {}, decay_log = {}, step_bias = {}, norm = {};

  size_t tokens() const {
    size_t sum = 0;
    for (const size_t length : lengths) sum += length;
    return sum;
  }
  DeltaNetInputs inputs(size_t first = 0) const {
    return {.x = x.data() + first * shape.channels(),
            .z = z.data() + first * shape.values(),
            .a = a.data() + first * shape.value_heads,
            .b = b.data() + first * shape.value_heads};
  }
  DeltaNetVectors vectors() const {
    return {.filter = filter.data(),
            .decay_log = decay_log.data(),
            .step_bias = step_bias.data(),
            .norm = norm.data(),
            .eps = 1e-6f};
  }
};

inline DeltaNetCase make_delta_net_case(const DeltaNetShape& shape, const std::vector<size_t>& lengths,
                                        unsigned seed) {
  DeltaNetCase made{.shape = shape, .lengths = lengths};
  const size_t tokens = made.tokens();
  made.x = random_values(tokens * shape.channels(), seed, 1);
  made.z = random_values(tokens * shape.values(), seed + 1, 2);
  made.a = random_values(tokens * shape.value_heads, seed + 2, 2);
  made.b = random_values(tokens * shape.value_heads, seed + 3, 2);
  made.filter = random_values(shape.taps * shape.channels(), seed + 4, 0.5f);
  made.decay_log = random_values(shape.value_heads, seed + 5, 1);
  made.step_bias = random_values(shape.value_heads, seed + 6, 2);
  made.norm = random_values(shape.value_width, seed + 7, 1);
  return made;
}

template <class T>
std::vector<T> delta_net_by_definition(const DeltaNetCase& in) {
  std::vector<T> out(in.tokens() * in.shape.values());
  size_t begin = 0;
  for (const size_t length : in.lengths) {
    delta_net_ref(in.shape, in.vectors(), in.inputs(begin), length, out.data() + begin * in.shape.values());
    begin += length;
  }
  return out;
}

template <class Where>
class DeltaNet : public ::testing::Test {
 protected:
  using Backend = typename Where::Backend;
  using T = typename Where::Element;

  void SetUp() override { Backend::set_up(); }

  // A token changes the state by an error of a few units, which later ones make no larger: decay and 1 - beta
  // k kᵀ do not lengthen a column. The norm divides by the head's size: where the head nearly cancels, the
  // error of its terms counts. Of a head's largest output that is below 2e-4 here; a wrong step gives 1e-2
  // and more.
  static void expect_definition(const DeltaNetCase& in, size_t chunk = 0) {
    const Rows<T> found = Backend::template run<T>(in, chunk);
    const std::vector<float> expected = delta_net_by_definition<float>(in);
    ASSERT_EQ(found.values.size(), expected.size());
    const size_t width = in.shape.value_width;
    for (size_t i = 0; i < expected.size(); ++i) {
      const float largest = amax(expected.data() + i / width * width, width);
      ASSERT_TRUE(std::abs(to_float(found.values[i]) - expected[i]) <= 2e-4f * largest + unit<T>(expected[i]))
          << "token " << i / in.shape.values() << ", channel " << i % in.shape.values() << ": "
          << to_float(found.values[i]) << ", not " << expected[i];
    }
    EXPECT_EQ(found.seen, amax(found.values.data(), found.values.size()));
  }
};

TYPED_TEST_SUITE_P(DeltaNet);

TYPED_TEST_P(DeltaNet, MatchesItsDefinition) {
  const DeltaNetShape shapes[] = {
      {.key_heads = 2, .value_heads = 4, .key_width = 16, .value_width = 16, .taps = 4},
      {.key_heads = 1, .value_heads = 1, .key_width = 7, .value_width = 33, .taps = 1},
      {.key_heads = 2, .value_heads = 6, .key_width = 128, .value_width = 128, .taps = 4},
      {.key_heads = 1, .value_heads = 2, .key_width = 200, .value_width = 64, .taps = 3},
      {.key_heads = 4, .value_heads = 4, .key_width = 64, .value_width = 40, .taps = 8}};
  unsigned seed = 0;
  for (const DeltaNetShape& shape : shapes) {
    TestFixture::expect_definition(make_delta_net_case(shape, {37, 1, 64, 2, 100}, ++seed));
    if (this->HasFatalFailure()) return;
  }
}

TYPED_TEST_P(DeltaNet, CutsChangeNothing) {
  using Ops = typename TestFixture::Backend;
  using Value = typename TestFixture::T;
  const DeltaNetShape shape{.key_heads = 2, .value_heads = 4, .key_width = 32, .value_width = 48, .taps = 4};
  const DeltaNetCase in = make_delta_net_case(shape, {131}, 40);
  TestFixture::expect_definition(in, 32);
  const Rows<Value> whole = Ops::template run<Value>(in, 0);
  for (const size_t chunk : {16, 50, 64}) {
    const Rows<Value> cut = Ops::template run<Value>(in, chunk);
    ASSERT_EQ(cut.values.size(), whole.values.size());
    for (size_t i = 0; i < cut.values.size(); ++i)
      ASSERT_EQ(to_float(cut.values[i]), to_float(whole.values[i])) << chunk << " " << i;
  }
}

TYPED_TEST_P(DeltaNet, RowsStandAlone) {
  using Ops = typename TestFixture::Backend;
  using Value = typename TestFixture::T;
  const DeltaNetShape shape{.key_heads = 1, .value_heads = 2, .key_width = 16, .value_width = 16, .taps = 4};
  const DeltaNetCase both = make_delta_net_case(shape, {30, 21}, 50);
  DeltaNetCase alone = both;
  alone.lengths = {21};
  for (auto [values, width] :
       {std::pair(&alone.x, shape.channels()), std::pair(&alone.z, shape.values()),
        std::pair(&alone.a, shape.value_heads), std::pair(&alone.b, shape.value_heads)})
    values->erase(values->begin(), values->begin() + static_cast<ptrdiff_t>(30 * width));
  const auto together = Ops::template run<Value>(both, 0), own = Ops::template run<Value>(alone, 0);
  for (size_t i = 0; i < own.values.size(); ++i)
    ASSERT_EQ(to_float(own.values[i]), to_float(together.values[30 * shape.values() + i])) << i;
}

TYPED_TEST_P(DeltaNet, NanStaysNan) {
  using Ops = typename TestFixture::Backend;
  using Value = typename TestFixture::T;
  const DeltaNetShape shape{.key_heads = 1, .value_heads = 2, .key_width = 16, .value_width = 16, .taps = 2};
  DeltaNetCase in = make_delta_net_case(shape, {5}, 60);
  in.b[2] = NAN;  // of token 1, head 0
  const Rows<Value> found = Ops::template run<Value>(in, 0);
  EXPECT_FALSE(std::isnan(to_float(found.values[0])));
  EXPECT_TRUE(std::isnan(to_float(found.values[shape.values()])));
  EXPECT_FALSE(std::isnan(to_float(found.values[shape.values() + shape.value_width])));
  EXPECT_TRUE(std::isnan(to_float(found.values[4 * shape.values()])));
  EXPECT_TRUE(std::isnan(found.seen));
}

TYPED_TEST_P(DeltaNet, ColumnsAreCopied) {
  using Ops = typename TestFixture::Backend;
  using Value = typename TestFixture::T;
  const size_t rows = 5, width = 60, stride = 17;
  const std::vector<float> x = random_values(rows * width, 70);
  const ColumnBlocks blocks{.begin = 4, .width = 5, .stride = 20, .count = 3};
  const std::vector<Value> y = Ops::template copy_columns<Value>(x, width, blocks, stride);
  ASSERT_EQ(y.size(), rows * stride);
  for (size_t row = 0; row < rows; ++row) {
    for (size_t i = 0; i < stride; ++i) {
      const float expected = i < 15 ? x[row * width + 4 + i / 5 * 20 + i % 5] : 0;
      ASSERT_EQ(to_float(y[row * stride + i]), to_float(from_float<Value>(expected))) << row << " " << i;
    }
  }
}

TYPED_TEST_P(DeltaNet, GatesMatchTheirDefinitions) {
  using Ops = typename TestFixture::Backend;
  using Value = typename TestFixture::T;
  for (const size_t width : {1, 48, 1000, 4096}) {
    const std::vector<Value> gates = rounded<Value>(random_values(3 * width, 80, 4)),
                             x = rounded<Value>(random_values(3 * width, 81, 2));
    const Rows<Value> gated = Ops::template gate_elements<Value>(gates, x);
    std::vector<float> expected, wide_gates;
    for (const Value value : x) expected.push_back(to_float(value));
    for (const Value value : gates) wide_gates.push_back(to_float(value));
    gate_elements_ref(wide_gates.data(), wide_gates.size(), expected.data());
    for (size_t i = 0; i < expected.size(); ++i)
      ASSERT_TRUE(std::abs(to_float(gated.values[i]) - expected[i]) <=
                  unit<Value>(expected[i]) + 4 * unit<float>(expected[i]));
    EXPECT_EQ(gated.seen, amax(gated.values.data(), gated.values.size()));

    const std::vector<float> weight = random_values(width, 82, 1 / std::sqrt(static_cast<float>(width)));
    std::vector<float> y = random_values(3 * width, 83);
    const std::vector<float> found = Ops::template gate_rows<Value>(x, weight, y);
    for (size_t row = 0; row < 3; ++row)
      gate_row_ref(x.data() + row * width, weight.data(), width, y.data() + row * width, width);
    // The dot product's error, at most `width` units of a sum of size 2, goes through a slope below 1.
    for (size_t i = 0; i < y.size(); ++i)
      ASSERT_TRUE(std::abs(found[i] - y[i]) <= 1e-5f * std::abs(y[i])) << width << " " << i;
  }
}

REGISTER_TYPED_TEST_SUITE_P(DeltaNet, MatchesItsDefinition, CutsChangeNothing, RowsStandAlone, NanStaysNan,
                            ColumnsAreCopied, GatesMatchTheirDefinitions);

}  // namespace nibblecast::testing
