#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "base/parallel.h"
#include "ops/gqa_suite.h"
#include "ops/suites.h"

namespace nibblecast {
namespace {

using testing::Attended;
using testing::Gqa;
using testing::gqa_shape;
using testing::GqaCase;
using testing::kOneCall;
using testing::make_gqa_case;
using testing::On;

struct CpuGqa {
  static void set_up() {}

  template <class T>
  static Attended<T> attend(const GqaCase<T>& in, size_t blocks_per_call) {
    const GqaShape& shape = in.shape;
    Attended<T> result{std::vector<T>(in.tokens() * shape.heads * shape.value_width)};
    size_t begin = 0;
    for (const size_t length : in.lengths) {
      const T* q = in.q.data() + begin * shape.heads * shape.key_width;
      const T* k = in.k.data() + begin * shape.kv_heads * shape.key_width;
      const T* v = in.v.data() + begin * shape.kv_heads * shape.value_width;
      T* out = result.out.data() + begin * shape.heads * shape.value_width;
      const float* sinks = in.sinks.empty() ? nullptr : in.sinks.data();
      if (blocks_per_call == kOneCall) {
        gqa(shape, q, k, v, length, sinks, out);
      } else {
        by_blocks(shape, GqaKeys<T>(shape, k, v, length), length, sinks, q, out);
      }
      begin += length;
    }
    result.seen = amax(result.out.data(), result.out.size());
    return result;
  }

 private:
  // Last block first, last head first.
  template <class T>
  static void by_blocks(const GqaShape& shape, const GqaKeys<T>& keys, size_t length, const float* sinks,
                        const T* q, T* out) {
    const size_t step = gqa_block_queries(shape), blocks = (length + step - 1) / step;
    for (size_t task = blocks * shape.kv_heads; task-- > 0;) {
      const size_t first = task / shape.kv_heads * step;
      attend_gqa(shape, keys, task % shape.kv_heads, first, std::min(step, length - first), sinks,
                 q + first * shape.heads * shape.key_width, out + first * shape.heads * shape.value_width);
    }
  }
};

using CpuTypes = ::testing::Types<On<CpuGqa, float>, On<CpuGqa, bf16>>;
}  // namespace

namespace testing {
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, Gqa, CpuTypes);
}

namespace {

template <class T>
class GqaCpu : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(GqaCpu, Types);

TYPED_TEST(GqaCpu, ThreadsChangeNothing) {
  const auto in = make_gqa_case<TypeParam>(gqa_shape(6, 3, 64, 64), {300}, 20);
  const auto many = CpuGqa::attend(in, kOneCall).out;
  const ThreadLimit one(1);
  EXPECT_TRUE(testing::equal_bytes(CpuGqa::attend(in, kOneCall).out, many));
}

// Keys alone, values alone, and rows that stand apart.
TYPED_TEST(GqaCpu, KeyPanelsKeepEveryValue) {
  const size_t width = 70, count = 100, stride = 83;
  const auto values = testing::random_elements<TypeParam>(count * stride, 1, 1);
  for (const PanelUse use : {PanelUse::kKeysAndValues, PanelUse::kKeys, PanelUse::kValues}) {
    const KeyPanels<TypeParam> keys(values.data(), count, width, stride, use);
    for (size_t key = 0; key < count; ++key) {
      for (size_t channel = 0; channel < width; ++channel) {
        ASSERT_EQ(to_float(keys.at(key, channel)), to_float(values[key * stride + channel]));
      }
    }
  }
}

}  // namespace
}  // namespace nibblecast
