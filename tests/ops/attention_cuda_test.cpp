// Attention, compressed keys and the indexer of whole groups of rows: one suite for the CPU and the device.
#include "ops/attention_cuda.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cuda_testing.h"
#include "ops/amax.h"
#include "ops/attention.h"
#include "ops/compressor.h"
#include "ops/compressor_cuda.h"
#include "ops/indexer.h"
#include "ops/indexer_cuda.h"
#include "ops/rmsnorm.h"
#include "ops/round.h"

namespace nibblecast {
namespace {

using testing::downloaded;
using testing::poisoned;
using testing::uploaded;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kEps = 1e-6f;

template <class T>
std::vector<T> random_values(size_t count, unsigned seed, float size = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, size);
  std::vector<T> values(count);
  for (T& value : values) value = from_float<T>(normal(generator));
  return values;
}

template <class T>
bool same_bytes(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

template <class T>
void expect_near(const std::vector<T>& found, const std::vector<T>& expected, float tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_TRUE(std::abs(to_float(found[i]) - to_float(expected[i])) <= tolerance)
        << i << ": " << to_float(found[i]) << " for " << to_float(expected[i]);
  }
}

std::vector<RowOfGroup> rows_of(const std::vector<uint32_t>& lengths, uint32_t ratio) {
  std::vector<RowOfGroup> rows;
  uint32_t begin = 0, first_entry = 0;
  for (const uint32_t length : lengths) {
    rows.push_back({.begin = begin, .length = length, .first_entry = first_entry});
    begin += length;
    first_entry += ratio == 0 ? 0 : length / ratio;
  }
  return rows;
}

uint32_t longest(const std::vector<RowOfGroup>& rows) {
  uint32_t length = 0;
  for (const RowOfGroup& row : rows) length = std::max(length, row.length);
  return length;
}
size_t tokens_of(const std::vector<RowOfGroup>& rows) { return rows.back().begin + rows.back().length; }
size_t entries_of(const std::vector<RowOfGroup>& rows, uint32_t ratio) {
  return ratio == 0 ? 0 : rows.back().first_entry + rows.back().length / ratio;
}

// As the CPU's forward pass does.
template <class T>
void norm_and_turn(const float* x, size_t width, const float* weight, const Rope& rope, size_t position,
                   T* y) {
  std::vector<float> own(width);
  rmsnorm(x, width, weight, kEps, own.data());
  rope.apply(own.data() + width - rope.dims(), position);
  round_rows(own.data(), width, 1, width, y, width);
}

struct AttentionShape {
  uint32_t heads = 0, width = 0, window = 0, ratio = 0;
  std::vector<uint32_t> lengths;  // of the rows
  size_t rope_dims = 16;
};

template <class T>
struct AttentionCase {
  AttentionShape shape;
  std::vector<RowOfGroup> rows = {};
  std::vector<T> raw = {}, entries = {}, q = {};
  std::vector<float> sinks = {};
  std::vector<uint64_t> chosen = {};  // empty: all
  uint32_t chosen_words = 0;
  Rope rope = {};
};

template <class T>
AttentionCase<T> make_case(const AttentionShape& shape, unsigned seed) {
  AttentionCase<T> made{.shape = shape, .rows = rows_of(shape.lengths, shape.ratio)};
  const size_t tokens = tokens_of(made.rows);
  made.raw = random_values<T>(tokens * shape.width, seed);
  made.entries = random_values<T>(entries_of(made.rows, shape.ratio) * shape.width, seed + 1);
  made.q = random_values<T>(tokens * shape.heads * shape.width, seed + 2, 2);
  made.sinks = random_values<float>(shape.heads, seed + 3);
  made.rope = Rope(rope_frequencies(10000, shape.rope_dims, std::nullopt), longest(made.rows));
  return made;
}

// Each token's own bits, of which a share is 1; `gap` entries in the middle of a row are chosen by nobody.
template <class T>
void choose_some(AttentionCase<T>& made, double share, unsigned seed, size_t gap = 0) {
  const size_t most = longest(made.rows) / made.shape.ratio;
  made.chosen_words = static_cast<uint32_t>((most + 63) / 64);
  made.chosen.assign(tokens_of(made.rows) * made.chosen_words, 0);
  std::mt19937 generator(seed);
  std::bernoulli_distribution choose(share);
  for (size_t token = 0; token < tokens_of(made.rows); ++token) {
    for (size_t i = 0; i < made.chosen_words * 64; ++i) {
      const bool in_gap = i >= most / 2 - gap / 2 && i < most / 2 + gap / 2;
      const uint64_t bit = choose(generator) && !in_gap ? 1 : 0;
      made.chosen[token * made.chosen_words + i / 64] |= bit << (i % 64);
    }
  }
}

// Queries [first, first + count) of a row by attend() or attend_ref(), with norm and RoPE before.
template <class T, class Attend>
std::vector<T> attend_on_cpu(const AttentionCase<T>& in, size_t row, size_t first, size_t count,
                             const Attend& attend_queries) {
  const auto& [heads, width, window, ratio, lengths, rope_dims] = in.shape;
  const RowOfGroup& own = in.rows[row];
  const KeyPanels<T> raw(in.raw.data() + own.begin * width, own.length, width);
  const KeyPanels<T> entries(in.entries.data() + own.first_entry * width, ratio == 0 ? 0 : own.length / ratio,
                             width);
  std::vector<T> q(count * heads * width);
  std::vector<float> wide(width);
  for (size_t i = 0; i < count * heads; ++i) {
    widen(in.q.data() + ((own.begin + first) * heads + i) * width, width, wide.data());
    norm_and_turn(wide.data(), width, nullptr, in.rope, first + i / heads, q.data() + i * width);
  }
  AttentionKeys<T> keys{.raw = &raw, .window = window, .ratio = ratio, .rope = &in.rope};
  if (ratio != 0) keys.entries = &entries;
  if (!in.chosen.empty()) {
    keys.chosen = in.chosen.data() + own.begin * in.chosen_words;
    keys.chosen_words = in.chosen_words;
  }
  attend_queries(keys, first, count, heads, in.sinks.data(), q.data());
  return q;
}

struct CompressorCase {
  CompressorShape shape;
  std::vector<RowOfGroup> rows = {};
  std::vector<float> values = {}, gates = {}, ape = {}, norm = {};
  Rope rope = {};
};

template <class T>
std::vector<T> compress_on_cpu(const CompressorCase& in, const decltype(&compress_window)& window) {
  const CompressorShape& shape = in.shape;
  std::vector<T> entries(entries_of(in.rows, static_cast<uint32_t>(shape.ratio)) * shape.dim);
  std::vector<float> own(shape.dim);
  for (const RowOfGroup& row : in.rows) {
    const size_t first_value = row.begin * shape.channels();
    for (size_t entry = 0; entry < row.length / shape.ratio; ++entry) {
      window(shape, in.values.data() + first_value, in.gates.data() + first_value, in.ape.data(), entry,
             own.data());
      norm_and_turn(own.data(), shape.dim, in.norm.data(), in.rope, entry * shape.ratio,
                    entries.data() + (row.first_entry + entry) * shape.dim);
    }
  }
  return entries;
}

template <class T>
struct IndexCase {
  size_t queries = 0, heads = 0, dim = 0, key_count = 0;
  std::vector<T> q = {}, keys = {};
  std::vector<float> weights = {};
  float weight_scale = 0.5f;
};

struct TopKCase {
  size_t queries = 0, key_count = 0, first_position = 0, ratio = 1, top_k = 0, words = 0;
  std::vector<float> scores = {};  // [queries, key_count]
};

struct Chosen {
  std::vector<uint64_t> bits = {};
  uint32_t nan_query = 0;
};

// What both devices do. `blocks_per_call`: how the work is divided into calls.
template <class Type>
struct Cpu {
  using T = Type;
  static constexpr bool kDevice = false;

  static std::vector<T> attend_all(const AttentionCase<T>& in, size_t, float* amax_seen) {
    std::vector<T> out;
    for (size_t row = 0; row < in.rows.size(); ++row) {
      for (size_t first = 0; first < in.rows[row].length; first += 16) {
        const size_t count = std::min<size_t>(16, in.rows[row].length - first);
        const std::vector<T> own = attend_on_cpu(in, row, first, count, attend<T>);
        out.insert(out.end(), own.begin(), own.end());
      }
    }
    *amax_seen = amax(out.data(), out.size());
    return out;
  }

  static std::vector<T> compress(const CompressorCase& in) {
    return compress_on_cpu<T>(in, &compress_window);
  }

  static std::vector<T> turn_heads(std::vector<T> x, size_t heads, size_t dim, const Rope& rope,
                                   const std::vector<uint32_t>& positions) {
    for (size_t i = 0; i < positions.size() * heads; ++i) {
      rope.apply(x.data() + (i + 1) * dim - rope.dims(), positions[i / heads]);
    }
    return x;
  }

  static std::vector<float> scores(const IndexCase<T>& in) {
    const size_t padded = (in.key_count + kIndexKeyStep - 1) / kIndexKeyStep * kIndexKeyStep;
    std::vector<T> keys = in.keys;
    keys.resize(padded * in.dim);
    std::vector<float> weights = in.weights, all(in.queries * padded), found;
    for (float& weight : weights) weight *= in.weight_scale;
    index_scores(in.q.data(), weights.data(), in.queries, in.heads, in.dim, keys.data(), padded, all.data());
    for (size_t query = 0; query < in.queries; ++query) {
      const float* own = all.data() + query * padded;
      found.insert(found.end(), own, own + in.key_count);
    }
    return found;
  }

  static Chosen choose(const TopKCase& in) {
    Chosen result{.bits = std::vector<uint64_t>(in.queries * in.words)};
    for (size_t query = 0; query < in.queries; ++query) {
      const size_t visible = std::min(in.key_count, (in.first_position + query + 1) / in.ratio);
      if (!choose_top_k(in.scores.data() + query * in.key_count, visible, in.top_k,
                        result.bits.data() + query * in.words, in.words)) {
        result.nan_query = static_cast<uint32_t>(query + 1);
      }
    }
    return result;
  }
};

template <class Type>
struct Cuda {
  using T = Type;
  static constexpr bool kDevice = true;

  static std::vector<T> attend_all(const AttentionCase<T>& in, size_t blocks_per_call, float* amax_seen) {
    const AttentionShape& shape = in.shape;
    const auto rows = uploaded(in.rows);
    const auto raw = uploaded(in.raw), entries = uploaded(in.entries);
    const auto chosen = uploaded(in.chosen);
    const auto sinks = uploaded(in.sinks);
    const auto seen = uploaded(std::vector<uint32_t>{0});
    const DeviceRope rope(in.rope);
    const AttentionCuda<T> attention{.heads = shape.heads,
                                     .width = shape.width,
                                     .window = shape.window,
                                     .ratio = shape.ratio,
                                     .rows = rows.data(),
                                     .raw = raw.data(),
                                     .entries = entries.data(),
                                     .chosen = in.chosen.empty() ? nullptr : chosen.data(),
                                     .chosen_words = in.chosen_words,
                                     .sinks = sinks.data(),
                                     .eps = kEps,
                                     .rope = rope.view()};
    const std::vector<QueryBlock> blocks = blocks_of(in);
    std::vector<T> out;
    for (size_t first = 0; first < blocks.size(); first += blocks_per_call) {
      const size_t end = std::min(blocks.size(), first + blocks_per_call);
      const std::vector<QueryBlock> own(blocks.begin() + static_cast<ptrdiff_t>(first),
                                        blocks.begin() + static_cast<ptrdiff_t>(end));
      const size_t begin = in.rows[own.front().row].begin + own.front().first;
      const size_t last = in.rows[own.back().row].begin + own.back().first + own.back().count;
      const size_t token = shape.heads * shape.width;
      const auto q = uploaded(std::vector<T>(in.q.begin() + static_cast<ptrdiff_t>(begin * token),
                                             in.q.begin() + static_cast<ptrdiff_t>(last * token)));
      const auto device_blocks = uploaded(own);
      CudaStream stream;
      attend_cuda(stream, attention, device_blocks.data(), own.size(), begin, q.data(), seen.data());
      stream.synchronize();
      const std::vector<T> found = downloaded(q);
      out.insert(out.end(), found.begin(), found.end());
    }
    *amax_seen = std::bit_cast<float>(downloaded(seen)[0]);
    return out;
  }

  static std::vector<T> compress(const CompressorCase& in) {
    const auto rows = uploaded(in.rows);
    const auto values = uploaded(in.values), gates = uploaded(in.gates), ape = uploaded(in.ape),
               norm = uploaded(in.norm);
    const DeviceRope rope(in.rope);
    const auto entries =
        poisoned<T>(entries_of(in.rows, static_cast<uint32_t>(in.shape.ratio)) * in.shape.dim);
    CudaStream stream;
    compress_cuda(
        stream,
        CompressorView{
            .shape = in.shape, .ape = ape.data(), .norm = norm.data(), .eps = kEps, .rope = rope.view()},
        rows.data(), in.rows.size(), longest(in.rows) / in.shape.ratio, values.data(), gates.data(),
        entries.data());
    stream.synchronize();
    return downloaded(entries);
  }

  static std::vector<T> turn_heads(const std::vector<T>& x, size_t heads, size_t dim, const Rope& rope,
                                   const std::vector<uint32_t>& positions) {
    const auto turned = uploaded(x);
    const auto device_positions = uploaded(positions);
    const DeviceRope device_rope(rope);
    CudaStream stream;
    turn_heads_cuda(stream, turned.data(), positions.size(), heads, dim, device_rope.view(),
                    device_positions.data());
    stream.synchronize();
    return downloaded(turned);
  }

  static std::vector<float> scores(const IndexCase<T>& in) {
    const auto q = uploaded(in.q), keys = uploaded(in.keys);
    const auto weights = uploaded(in.weights), scores = poisoned<float>(in.queries * in.key_count);
    CudaStream stream;
    index_scores_cuda(stream, q.data(), weights.data(), in.weight_scale, in.queries, in.heads, in.dim,
                      keys.data(), in.key_count, scores.data());
    stream.synchronize();
    return downloaded(scores);
  }

  static Chosen choose(const TopKCase& in) {
    const auto scores = uploaded(in.scores);
    const auto bits = poisoned<uint64_t>(in.queries * in.words);
    const auto nan_query = uploaded(std::vector<uint32_t>{0});
    CudaStream stream;
    choose_top_k_cuda(stream, scores.data(), in.queries, in.key_count, in.first_position, in.ratio, in.top_k,
                      bits.data(), in.words, nan_query.data());
    stream.synchronize();
    return {.bits = downloaded(bits), .nan_query = downloaded(nan_query)[0]};
  }

 private:
  static std::vector<QueryBlock> blocks_of(const AttentionCase<T>& in) {
    const uint32_t most = kAttentionBlockQueries;
    std::vector<QueryBlock> blocks;
    for (uint32_t row = 0; row < in.rows.size(); ++row) {
      for (uint32_t first = 0; first < in.rows[row].length; first += most) {
        blocks.push_back({.row = row, .first = first, .count = std::min(most, in.rows[row].length - first)});
      }
    }
    return blocks;
  }
};

constexpr size_t kOneCall = 1 << 20;

template <class Backend>
class GroupAttention : public ::testing::Test {
 protected:
  void SetUp() override {
    if constexpr (Backend::kDevice) {
      SKIP_WITHOUT_CUDA();
    }
  }
};
using Backends = ::testing::Types<Cpu<float>, Cpu<bf16>, Cuda<float>, Cuda<bf16>>;
struct BackendNames {
  template <class Backend>
  static std::string GetName(int) {
    return std::string(Backend::kDevice ? "Cuda" : "Cpu") +
           (sizeof(typename Backend::T) == 2 ? "Bf16" : "Float");
  }
};
TYPED_TEST_SUITE(GroupAttention, Backends, BackendNames);

// As in attention_test.cpp: outputs are weighted means of keys of size about 3 at most. float: a few FP32
// units of the sums. bf16: p and the result are rounded, each by 2^-9 of its size.
template <class T>
constexpr float kTolerance = sizeof(T) == 2 ? 3 * 3 * 0x1p-9f : 2e-5f;

// Queries [first, first + count) of a row of `found`, a whole group's output.
template <class T>
void expect_reference(const AttentionCase<T>& in, const std::vector<T>& found, size_t row, size_t first,
                      size_t count) {
  const std::vector<T> expected = attend_on_cpu(in, row, first, count, attend_ref<T>);
  const auto begin =
      found.begin() + static_cast<ptrdiff_t>((in.rows[row].begin + first) * in.shape.heads * in.shape.width);
  SCOPED_TRACE(::testing::Message() << "row " << row << ", queries from " << first << ", " << in.shape.heads
                                    << " heads of " << in.shape.width << ", window " << in.shape.window
                                    << ", ratio " << in.shape.ratio);
  expect_near(std::vector<T>(begin, begin + static_cast<ptrdiff_t>(expected.size())), expected,
              kTolerance<T>);
}

template <class Backend>
void expect_whole_reference(const AttentionCase<typename Backend::T>& in) {
  float seen = 0;
  const auto found = Backend::attend_all(in, kOneCall, &seen);
  EXPECT_EQ(seen, amax(found.data(), found.size()));
  for (size_t row = 0; row < in.rows.size(); ++row) {
    expect_reference(in, found, row, 0, in.rows[row].length);
  }
}

TYPED_TEST(GroupAttention, MatchesReference) {
  unsigned seed = 100;
  for (const uint32_t ratio : {0, 4, 128}) {
    for (const uint32_t window : {1, 16, 64, 200}) {
      for (const uint32_t heads : {1, 6, 9}) {
        const uint32_t width = heads == 1 ? 16 : heads == 6 ? 48 : 64;
        // Blocks that are not full, a row without tokens, and one that ends at an entry.
        expect_whole_reference<TypeParam>(make_case<typename TypeParam::T>({.heads = heads,
                                                                            .width = width,
                                                                            .window = window,
                                                                            .ratio = ratio,
                                                                            .lengths = {150, 3, 0, 17, 128}},
                                                                           seed += 10));
        if (this->HasFatalFailure()) return;
      }
    }
  }
}

TYPED_TEST(GroupAttention, MatchesReferenceAtFullWidth) {
  using T = typename TypeParam::T;
  for (const uint32_t ratio : {4, 128}) {
    const auto in = make_case<T>(
        {.heads = 10, .width = 512, .window = 128, .ratio = ratio, .lengths = {300, 41}, .rope_dims = 64}, 7);
    float seen = 0;
    const auto found = TypeParam::attend_all(in, kOneCall, &seen);
    EXPECT_EQ(seen, amax(found.data(), found.size()));
    for (const size_t first : {0, 120, 260}) expect_reference(in, found, 0, first, 40);
    expect_reference(in, found, 1, 0, 41);
  }
}

TYPED_TEST(GroupAttention, TakesLongRows) {
  using T = typename TypeParam::T;
  const auto in =
      make_case<T>({.heads = 5, .width = 144, .window = 128, .ratio = 4, .lengths = {20, 2800}}, 8);
  float seen = 0;
  const auto found = TypeParam::attend_all(in, kOneCall, &seen);
  for (const size_t first : {0, 1017, 2784}) expect_reference(in, found, 1, first, 16);
}

TYPED_TEST(GroupAttention, SeesOnlyChosenEntries) {
  using T = typename TypeParam::T;
  auto in = make_case<T>({.heads = 3, .width = 32, .window = 8, .ratio = 4, .lengths = {300, 40, 1103}}, 9);
  choose_some(in, 0.5, 10);
  expect_whole_reference<TypeParam>(in);
  choose_some(in, 0.02, 11, 130);  // tiles of which nothing is seen
  expect_whole_reference<TypeParam>(in);
  choose_some(in, 0, 12);  // raw keys only
  expect_whole_reference<TypeParam>(in);
}

TYPED_TEST(GroupAttention, TakesSinksOfAnySize) {
  using T = typename TypeParam::T;
  auto in = make_case<T>({.heads = 4, .width = 32, .window = 30, .ratio = 4, .lengths = {70}}, 13);
  in.sinks = {-kInfinity, -50, 12, 60};
  expect_whole_reference<TypeParam>(in);
}

// Neither how queries are divided into calls nor the other rows of the group may change a bit, nor the run.
TYPED_TEST(GroupAttention, DividesIntoCallsWithoutChangingABit) {
  using T = typename TypeParam::T;
  auto in = make_case<T>({.heads = 6, .width = 128, .window = 64, .ratio = 4, .lengths = {33, 700, 90}}, 14);
  choose_some(in, 0.3, 15);
  float seen = 0, seen_again = 0;
  const auto whole = TypeParam::attend_all(in, kOneCall, &seen);
  for (const size_t blocks_per_call : {size_t{1}, size_t{3}, kOneCall}) {
    EXPECT_TRUE(same_bytes(TypeParam::attend_all(in, blocks_per_call, &seen_again), whole));
    EXPECT_EQ(seen_again, seen);
  }
  auto alone = in;
  const RowOfGroup row = in.rows[1];
  const auto part = [](const auto& values, size_t first, size_t count) {
    return std::vector(values.begin() + static_cast<ptrdiff_t>(first),
                       values.begin() + static_cast<ptrdiff_t>(first + count));
  };
  const size_t token = in.shape.heads * in.shape.width, width = in.shape.width;
  alone.rows = rows_of({row.length}, in.shape.ratio);
  alone.raw = part(in.raw, row.begin * width, row.length * width);
  alone.entries = part(in.entries, row.first_entry * width, row.length / in.shape.ratio * width);
  alone.q = part(in.q, row.begin * token, row.length * token);
  alone.chosen = part(in.chosen, row.begin * in.chosen_words, row.length * in.chosen_words);
  EXPECT_TRUE(same_bytes(TypeParam::attend_all(alone, kOneCall, &seen_again),
                         part(whole, row.begin * token, row.length * token)));
}

TYPED_TEST(GroupAttention, KeepsNaN) {
  using T = typename TypeParam::T;
  auto in = make_case<T>({.heads = 2, .width = 32, .window = 8, .ratio = 0, .lengths = {40}}, 16);
  const size_t head = 21 * 2 + 1;  // of token 21
  in.q[head * 32 + 5] = from_float<T>(kNaN);
  float seen = 0;
  const auto found = TypeParam::attend_all(in, kOneCall, &seen);
  EXPECT_TRUE(std::isnan(seen));
  for (size_t i = 0; i < found.size(); ++i) EXPECT_EQ(std::isnan(to_float(found[i])), i / 32 == head) << i;
}

// A key that is NaN reaches the queries that see it.
TYPED_TEST(GroupAttention, KeepsNaNOfKeys) {
  using T = typename TypeParam::T;
  auto in = make_case<T>({.heads = 2, .width = 32, .window = 8, .ratio = 4, .lengths = {40}}, 17);
  in.entries[4 * 32 + 20] = from_float<T>(kNaN);  // entry 4: of queries from 19 on
  float seen = 0;
  const auto found = TypeParam::attend_all(in, kOneCall, &seen);
  EXPECT_TRUE(std::isnan(seen));
  for (size_t i = 19 * 64; i < found.size(); ++i) EXPECT_TRUE(std::isnan(to_float(found[i]))) << i;
}

CompressorCase make_compressor_case(const CompressorShape& shape, const std::vector<uint32_t>& lengths,
                                    unsigned seed) {
  CompressorCase made{.shape = shape, .rows = rows_of(lengths, static_cast<uint32_t>(shape.ratio))};
  const size_t count = tokens_of(made.rows) * shape.channels();
  made.values = random_values<float>(count, seed);
  made.gates = random_values<float>(count, seed + 1, 3);
  made.ape = random_values<float>(shape.ratio * shape.channels(), seed + 2);
  made.norm = random_values<float>(shape.dim, seed + 3);
  made.rope = Rope(rope_frequencies(10000, 16, std::nullopt), longest(made.rows));
  return made;
}

// Normed entries times weights: sizes up to 16. float: some units of FP32 of the softmax and the norm (2^-24
// each, of at most 128 additions in a random order of signs). bf16: half a unit of the result, 2^-9 of 16,
// and a whole one where the FP32 results lie on either side of a tie.
template <class T>
constexpr float kEntryTolerance = sizeof(T) == 2 ? 16 * 0x1p-8f : 5e-5f;

TYPED_TEST(GroupAttention, CompressesAsTheReference) {
  using T = typename TypeParam::T;
  const CompressorShape shapes[] = {{.ratio = 4, .dim = 48, .overlap = true},
                                    {.ratio = 4, .dim = 512, .overlap = true},
                                    {.ratio = 128, .dim = 512, .overlap = false},
                                    {.ratio = 5, .dim = 16, .overlap = false},
                                    {.ratio = 4, .dim = 1040, .overlap = true}};
  unsigned seed = 30;
  for (const CompressorShape& shape : shapes) {
    SCOPED_TRACE(::testing::Message() << "ratio " << shape.ratio << ", dim " << shape.dim);
    const auto in = make_compressor_case(shape, {3, 261, 0, 128, 20}, seed += 10);
    const auto found = TypeParam::compress(in);
    expect_near(found, compress_on_cpu<T>(in, &compress_window_ref), kEntryTolerance<T>);
    EXPECT_TRUE(same_bytes(TypeParam::compress(in), found));
  }
}

TYPED_TEST(GroupAttention, CompressesNothing) {
  const auto in = make_compressor_case({.ratio = 4, .dim = 16, .overlap = true}, {3, 2}, 5);
  EXPECT_TRUE(TypeParam::compress(in).empty());
}

TYPED_TEST(GroupAttention, TurnsHeads) {
  using T = typename TypeParam::T;
  const size_t heads = 3, dim = 48;
  const std::vector<uint32_t> positions = {0, 7, 3, 19, 8};
  const Rope rope(rope_frequencies(10000, 32, std::nullopt), 20);
  const auto x = random_values<T>(positions.size() * heads * dim, 40);
  // Of size 4 at most, the products' last bits, and those of the rounding they decide.
  expect_near(TypeParam::turn_heads(x, heads, dim, rope, positions),
              Cpu<T>::turn_heads(x, heads, dim, rope, positions), sizeof(T) == 2 ? 4 * 0x1p-8f : 1e-6f);
}

TYPED_TEST(GroupAttention, IndexScoresMatchReference) {
  using T = typename TypeParam::T;
  unsigned seed = 50;
  for (const size_t dim : {16, 64, 128}) {
    for (const auto& [queries, key_count] :
         {std::pair<size_t, size_t>(1, 1), {70, 130}, {64, 128}, {33, 300}}) {
      const size_t heads = 30;
      IndexCase<T> in{.queries = queries, .heads = heads, .dim = dim, .key_count = key_count};
      in.q = random_values<T>(queries * heads * dim, seed += 10);
      in.keys = random_values<T>(key_count * dim, seed + 1);
      in.weights = random_values<float>(queries * heads, seed + 2, 0.1f);
      const auto found = TypeParam::scores(in);
      std::vector<float> weights = in.weights, expected(queries * key_count);
      for (float& weight : weights) weight *= in.weight_scale;
      index_scores_ref(in.q.data(), weights.data(), queries, heads, dim, in.keys.data(), key_count,
                       expected.data());
      // As in attention_test.cpp: sizes up to 30 * 12 * 0.2, some 160 additions of FP32.
      expect_near(found, expected, 1e-4f);
      EXPECT_TRUE(same_bytes(TypeParam::scores(in), found));
    }
  }
}

template <class Backend>
void expect_cpu_choice(const TopKCase& in) {
  SCOPED_TRACE(::testing::Message() << in.key_count << " keys, " << in.top_k << " chosen, from position "
                                    << in.first_position);
  const Chosen found = Backend::choose(in), expected = Cpu<float>::choose(in);
  EXPECT_EQ(found.bits, expected.bits);
  EXPECT_EQ(found.nan_query, expected.nan_query);
}

TYPED_TEST(GroupAttention, ChoosesTheLargestScores) {
  unsigned seed = 60;
  for (const size_t key_count : {1, 63, 64, 700, 2051}) {
    for (const size_t top_k : {0, 1, 48, 1024}) {
      TopKCase in{.queries = 9, .key_count = key_count, .top_k = top_k, .words = key_count / 64 + 2};
      in.scores = random_values<float>(in.queries * key_count, seed += 10);
      in.ratio = 4;
      for (const size_t first_position : {size_t{0}, key_count * 2, key_count * 4, key_count * 40}) {
        in.first_position = first_position;
        expect_cpu_choice<TypeParam>(in);
      }
    }
  }
}

TYPED_TEST(GroupAttention, ChoosesTheLowerOfEqualScores) {
  TopKCase in{.queries = 4, .key_count = 900, .first_position = 900, .top_k = 300, .words = 15};
  in.scores.resize(in.queries * in.key_count);
  std::mt19937 generator(70);
  std::uniform_int_distribution<int> few(-2, 2);
  for (float& score : in.scores) {
    const float value = static_cast<float>(few(generator));
    score = value == 0 && generator() % 2 == 0 ? -0.0f : value;  // +0 and -0 are equal
  }
  std::fill_n(in.scores.begin(), in.key_count, 1.5f);  // the first query's are all equal
  in.scores[in.key_count + 5] = kInfinity;
  in.scores[in.key_count + 6] = -kInfinity;
  for (const size_t top_k : {1, 199, 300, 500, 899}) {
    in.top_k = top_k;
    expect_cpu_choice<TypeParam>(in);
  }
}

TYPED_TEST(GroupAttention, ReportsScoresThatAreNaN) {
  TopKCase in{.queries = 5, .key_count = 100, .first_position = 60, .top_k = 10, .words = 2};
  in.scores = random_values<float>(in.queries * in.key_count, 80);
  in.scores[0 * 100 + 62] = kNaN;  // query 0 sees 61
  expect_cpu_choice<TypeParam>(in);
  in.scores[1 * 100 + 61] = kNaN;  // the last one that query 1 sees
  in.scores[3 * 100 + 0] = -kNaN;
  expect_cpu_choice<TypeParam>(in);
  EXPECT_EQ(TypeParam::choose(in).nan_query, 4u);
}

}  // namespace
}  // namespace nibblecast
