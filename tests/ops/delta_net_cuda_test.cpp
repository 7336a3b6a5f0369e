#include "ops/delta_net_cuda.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "cuda_testing.h"
#include "ops/delta_net_suite.h"
#include "ops/gates_cuda.h"

namespace nibblecast {
namespace {

using testing::DeltaNet;
using testing::DeltaNetCase;
using testing::downloaded;
using testing::make_delta_net_case;
using testing::On;
using testing::poisoned;
using testing::Rows;
using testing::uploaded;

float value_of(const DeviceArray<uint32_t>& seen) { return std::bit_cast<float>(downloaded(seen)[0]); }

struct CudaDeltaNet {
  static void set_up() { SKIP_WITHOUT_CUDA(); }

  template <class T>
  static Rows<T> run(const DeltaNetCase& in, size_t chunk) {
    const DeltaNetShape& shape = in.shape;
    const size_t tokens = in.tokens();
    if (chunk == 0) chunk = tokens;
    const auto x = uploaded(in.x), z = uploaded(in.z), a = uploaded(in.a), b = uploaded(in.b);
    const auto filter = uploaded(in.filter), decay_log = uploaded(in.decay_log),
               step_bias = uploaded(in.step_bias), norm = uploaded(in.norm);
    const DeltaNetVectors vectors{filter.data(), decay_log.data(), step_bias.data(), norm.data(), 1e-6f};
    const auto rows = uploaded(rows_of(in));
    const auto positions = uploaded(positions_of(in));
    const auto channels = poisoned<float>(chunk * shape.channels()),
               o = poisoned<float>(chunk * shape.values());
    const auto history = poisoned<float>(std::max<size_t>(shape.history(), 1)),
               state = poisoned<float>(shape.state());
    const auto out = poisoned<T>(tokens * shape.values());
    const auto seen = uploaded(std::vector<uint32_t>{0});
    CudaStream stream;
    for (size_t first = 0; first < tokens; first += chunk) {
      const DeltaNetInputs inputs{x.data() + first * shape.channels(), z.data() + first * shape.values(),
                                  a.data() + first * shape.value_heads, b.data() + first * shape.value_heads};
      delta_net_cuda(stream, shape, vectors, inputs,
                     {.rows = rows.data(),
                      .row_count = in.lengths.size(),
                      .group_tokens = tokens,
                      .begin = first,
                      .count = std::min(chunk, tokens - first),
                      .positions = positions.data() + first},
                     {.history = history.data(), .state = state.data()}, channels.data(), o.data(),
                     out.data() + first * shape.values(), seen.data());
    }
    stream.synchronize();
    return {downloaded(out), value_of(seen)};
  }

  template <class T>
  static std::vector<T> copy_columns(const std::vector<float>& x, size_t x_width, const ColumnBlocks& blocks,
                                     size_t y_stride) {
    const auto device_x = uploaded(x);
    const auto y = uploaded(std::vector<T>(x.size() / x_width * y_stride));
    CudaStream stream;
    copy_columns_cuda(stream, device_x.data(), x.size() / x_width, x_width, blocks, y.data(), y_stride);
    stream.synchronize();
    return downloaded(y);
  }

  template <class T>
  static Rows<T> gate_elements(const std::vector<T>& gates, const std::vector<T>& x) {
    const auto device_gates = uploaded(gates), y = uploaded(x);
    const auto seen = uploaded(std::vector<uint32_t>{0});
    CudaStream stream;
    gate_elements_cuda(stream, device_gates.data(), gates.size(), y.data(), seen.data());
    stream.synchronize();
    return {downloaded(y), value_of(seen)};
  }

  template <class T>
  static std::vector<float> gate_rows(const std::vector<T>& x, const std::vector<float>& weight,
                                      const std::vector<float>& y) {
    const auto device_x = uploaded(x);
    const auto device_weight = uploaded(weight), device_y = uploaded(y);
    CudaStream stream;
    gate_rows_cuda(stream, device_x.data(), x.size() / weight.size(), device_weight.data(), weight.size(),
                   device_y.data(), weight.size());
    stream.synchronize();
    return downloaded(device_y);
  }

 private:
  static std::vector<RowOfGroup> rows_of(const DeltaNetCase& in) {
    std::vector<RowOfGroup> rows;
    uint32_t begin = 0;
    for (const size_t length : in.lengths) {
      rows.push_back({.begin = begin, .length = static_cast<uint32_t>(length)});
      begin += static_cast<uint32_t>(length);
    }
    return rows;
  }
  static std::vector<uint32_t> positions_of(const DeltaNetCase& in) {
    std::vector<uint32_t> positions;
    for (const size_t length : in.lengths)
      for (uint32_t position = 0; position < length; ++position) positions.push_back(position);
    return positions;
  }
};

using CudaTypes = ::testing::Types<On<CudaDeltaNet, float>, On<CudaDeltaNet, bf16>>;
}  // namespace

namespace testing {
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, DeltaNet, CudaTypes);
}

namespace {

// As long as rows of a calibration get, with a real model's heads.
TEST(DeltaNetCuda, IsTheSameTwice) {
  SKIP_WITHOUT_CUDA();
  const DeltaNetShape shape{
      .key_heads = 16, .value_heads = 32, .key_width = 128, .value_width = 128, .taps = 4};
  const DeltaNetCase in = make_delta_net_case(shape, {512, 300, 1}, 91);
  const auto first = CudaDeltaNet::run<bf16>(in, 0), again = CudaDeltaNet::run<bf16>(in, 0);
  EXPECT_EQ(first.seen, again.seen);
  ASSERT_EQ(first.values.size(), again.values.size());
  EXPECT_EQ(std::memcmp(first.values.data(), again.values.data(), first.values.size() * sizeof(bf16)), 0);
}

}  // namespace
}  // namespace nibblecast
