#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "base/parallel.h"
#include "ops/delta_net_suite.h"

namespace nibblecast {
namespace {

using testing::DeltaNet;
using testing::DeltaNetCase;
using testing::make_delta_net_case;
using testing::On;
using testing::Rows;

struct CpuDeltaNet {
  static void set_up() {}

  template <class T>
  static Rows<T> run(const DeltaNetCase& in, size_t chunk) {
    const DeltaNetShape& shape = in.shape;
    const size_t tokens = in.tokens();
    if (chunk == 0) chunk = tokens;
    Rows<T> result{std::vector<T>(tokens * shape.values())};
    std::vector<float> channels(chunk * shape.channels()), o(chunk * shape.values());
    std::vector<float> history(shape.history(), NAN), state(shape.state(), NAN);
    for (size_t first = 0; first < tokens; first += chunk) {
      const size_t count = std::min(chunk, tokens - first);
      delta_net(shape, in.vectors(), in.inputs(first), rows_of(in, first, count),
                {.history = history.data(), .state = state.data()}, channels.data(), o.data(),
                result.values.data() + first * shape.values());
    }
    result.seen = amax(result.values.data(), result.values.size());
    return result;
  }

  template <class T>
  static std::vector<T> copy_columns(const std::vector<float>& x, size_t x_width, const ColumnBlocks& blocks,
                                     size_t y_stride) {
    std::vector<T> y(x.size() / x_width * y_stride);
    for (size_t row = 0; row < x.size() / x_width; ++row)
      nibblecast::copy_columns(x.data() + row * x_width, blocks, y.data() + row * y_stride);
    return y;
  }

  template <class T>
  static Rows<T> gate_elements(const std::vector<T>& gates, const std::vector<T>& x) {
    Rows<T> result{x};
    nibblecast::gate_elements(gates.data(), gates.size(), result.values.data());
    result.seen = amax(result.values.data(), result.values.size());
    return result;
  }

  template <class T>
  static std::vector<float> gate_rows(const std::vector<T>& x, const std::vector<float>& weight,
                                      std::vector<float> y) {
    const size_t width = weight.size();
    for (size_t row = 0; row < x.size() / width; ++row)
      gate_row(x.data() + row * width, weight.data(), width, y.data() + row * width, width);
    return y;
  }

 private:
  // Of tokens [first, first + count), which are all, or of the only row.
  static std::vector<DeltaNetRow> rows_of(const DeltaNetCase& in, size_t first, size_t count) {
    if (count < in.tokens() || in.lengths.size() == 1)
      return {{.begin = 0, .count = count, .goes_on = first > 0, .ends = first + count == in.tokens()}};
    std::vector<DeltaNetRow> rows;
    for (const size_t length : in.lengths) {
      rows.push_back({.begin = first, .count = length});
      first += length;
    }
    return rows;
  }
};

using CpuTypes = ::testing::Types<On<CpuDeltaNet, float>, On<CpuDeltaNet, bf16>>;
}  // namespace

namespace testing {
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, DeltaNet, CpuTypes);
}

namespace {

TEST(DeltaNetCpu, ThreadsChangeNothing) {
  const DeltaNetShape shape{.key_heads = 2, .value_heads = 4, .key_width = 32, .value_width = 32, .taps = 4};
  const DeltaNetCase in = make_delta_net_case(shape, {70, 9}, 90);
  const auto many = CpuDeltaNet::run<float>(in, 0).values;
  const ThreadLimit one(1);
  EXPECT_EQ(CpuDeltaNet::run<float>(in, 0).values, many);
}

}  // namespace
}  // namespace nibblecast
