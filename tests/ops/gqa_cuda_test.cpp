#include "ops/gqa_cuda.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <vector>

#include "cuda_testing.h"
#include "ops/gqa_suite.h"
#include "ops/suites.h"

namespace nibblecast {
namespace {

using testing::Attended;
using testing::downloaded;
using testing::Gqa;
using testing::gqa_shape;
using testing::GqaCase;
using testing::make_gqa_case;
using testing::On;
using testing::poisoned;
using testing::uploaded;

struct CudaGqa {
  static void set_up() { SKIP_WITHOUT_CUDA(); }

  template <class T>
  static Attended<T> attend(const GqaCase<T>& in, size_t blocks_per_call) {
    return attend_shifted(in, blocks_per_call, 0);
  }

  // Everything `shift` elements behind the beginning of its memory.
  template <class T>
  static Attended<T> attend_shifted(const GqaCase<T>& in, size_t blocks_per_call, size_t shift) {
    const auto rows = uploaded(rows_of(in));
    const auto q = uploaded(shifted(in.q, shift)), k = uploaded(shifted(in.k, shift)),
               v = uploaded(shifted(in.v, shift));
    const auto sinks = uploaded(in.sinks);
    const auto seen = uploaded(std::vector<uint32_t>{0});
    GqaCuda<T> view = gqa_view<T>(in.shape);
    view.rows = rows.data();
    view.keys = k.data() + shift;
    view.values = v.data() + shift;
    view.sinks = in.sinks.empty() ? nullptr : sinks.data();
    const std::vector<QueryBlock> blocks = blocks_of(in);
    Attended<T> result;
    for (size_t first = 0; first < blocks.size(); first += blocks_per_call) {
      const std::vector<QueryBlock> own(
          blocks.begin() + static_cast<ptrdiff_t>(first),
          blocks.begin() + static_cast<ptrdiff_t>(std::min(blocks.size(), first + blocks_per_call)));
      const std::vector<RowOfGroup> all = rows_of(in);
      const size_t begin = all[own.front().row].begin + own.front().first;
      const size_t end = all[own.back().row].begin + own.back().first + own.back().count;
      const size_t token = in.shape.heads * in.shape.value_width;
      const auto device_blocks = uploaded(own);
      const auto out = poisoned<T>((end - begin) * token + shift);
      CudaStream stream;
      gqa_cuda(stream, view, device_blocks.data(), own.size(), begin,
               static_cast<const T*>(q.data()) + shift + begin * in.shape.heads * in.shape.key_width,
               out.data() + shift, seen.data());
      stream.synchronize();
      const std::vector<T> found = downloaded(out);
      result.out.insert(result.out.end(), found.begin() + static_cast<ptrdiff_t>(shift), found.end());
    }
    result.seen = std::bit_cast<float>(downloaded(seen)[0]);
    return result;
  }

 private:
  template <class T>
  static std::vector<T> shifted(const std::vector<T>& values, size_t shift) {
    std::vector<T> result(shift);
    result.insert(result.end(), values.begin(), values.end());
    return result;
  }

  template <class T>
  static std::vector<RowOfGroup> rows_of(const GqaCase<T>& in) {
    std::vector<RowOfGroup> rows;
    uint32_t begin = 0;
    for (const size_t length : in.lengths) {
      rows.push_back({.begin = begin, .length = static_cast<uint32_t>(length)});
      begin += static_cast<uint32_t>(length);
    }
    return rows;
  }

  template <class T>
  static std::vector<QueryBlock> blocks_of(const GqaCase<T>& in) {
    std::vector<QueryBlock> blocks;
    for (uint32_t row = 0; row < in.lengths.size(); ++row) {
      const uint32_t length = static_cast<uint32_t>(in.lengths[row]);
      for (uint32_t first = 0; first < length; first += kGqaBlockQueries) {
        blocks.push_back({.row = row, .first = first, .count = std::min(kGqaBlockQueries, length - first)});
      }
    }
    return blocks;
  }
};

using CudaTypes = ::testing::Types<On<CudaGqa, float>, On<CudaGqa, bf16>>;
}  // namespace

namespace testing {
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, Gqa, CudaTypes);
}

namespace {

template <class T>
class GqaCudaOnly : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_CUDA(); }
};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(GqaCudaOnly, Types);

// Memory that does not begin at a multiple of 16 bytes, and heads that do not.
TYPED_TEST(GqaCudaOnly, TakesAnyAddressAndWidth) {
  for (const size_t width : {64, 37, 131, 300}) {
    const auto in = make_gqa_case<TypeParam>(gqa_shape(4, 2, width, width), {100, 7}, 30);
    const auto found = CudaGqa::attend_shifted(in, testing::kOneCall, 1);
    const auto expected = testing::gqa_by_definition(in);
    ASSERT_EQ(found.out.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(to_float(found.out[i]), to_float(expected[i]), sizeof(TypeParam) == 2 ? 0.0235f : 3e-5f)
          << width << " " << i;
    }
  }
}

// As long as rows of a calibration get, with a real model's heads.
TYPED_TEST(GqaCudaOnly, IsTheSameTwice) {
  const auto in = make_gqa_case<TypeParam>(gqa_shape(16, 2, 128, 128), {2048, 500}, 31);
  const auto first = CudaGqa::attend(in, testing::kOneCall), again = CudaGqa::attend(in, testing::kOneCall);
  EXPECT_TRUE(testing::equal_bytes(first.out, again.out));
  EXPECT_EQ(first.seen, again.seen);
}

}  // namespace
}  // namespace nibblecast
