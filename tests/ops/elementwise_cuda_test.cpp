#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "cuda_testing.h"
#include "ops/amax_cuda.h"
#include "ops/cross_entropy_cuda.h"
#include "ops/elementwise_suite.h"
#include "ops/hyper_connection_cuda.h"
#include "ops/rmsnorm_cuda.h"
#include "ops/router_cuda.h"
#include "ops/rows_cuda.h"
#include "ops/swiglu_cuda.h"

namespace nibblecast {
namespace {

using testing::Activated;
using testing::downloaded;
using testing::Elementwise;
using testing::Mixed;
using testing::On;
using testing::poisoned;
using testing::random_values;
using testing::rounded;
using testing::Routed;
using testing::Rows;
using testing::rows_of;
using testing::unit;
using testing::uploaded;

// An amax in device memory.
class Seen {
 public:
  DeviceAmax get() const { return bits_.data(); }
  float value() const { return std::bit_cast<float>(downloaded(bits_)[0]); }

 private:
  DeviceArray<uint32_t> bits_ = uploaded(std::vector<uint32_t>{0});
};

struct DeviceConnection {
  explicit DeviceConnection(const HyperConnection& c)
      : base(uploaded(c.base)),
        scale(uploaded(c.scale)),
        view{static_cast<uint32_t>(c.streams),
             static_cast<uint32_t>(c.width),
             static_cast<uint32_t>(c.sinkhorn_iterations),
             c.eps,
             c.norm_eps,
             base.data(),
             scale.data()} {}
  DeviceArray<float> base, scale;
  HyperConnectionView view;
};

template <class T>
std::vector<T> split_fn(const std::vector<float>& fn) {
  const auto device_fn = uploaded(fn);
  const auto parts = poisoned<T>(kFnParts<T> * fn.size());
  CudaStream stream;
  split_fn_cuda(stream, device_fn.data(), fn.size(), parts.data());
  stream.synchronize();
  return downloaded(parts);
}

// [streams, tokens, kFnParts<T> * outputs]: each stream times its columns of fn's parts.
template <class T>
std::vector<float> fn_products(const HyperConnection& connection, const std::vector<T>& streams) {
  const size_t width = connection.width, k = connection.streams * width;
  const std::vector<T> parts = split_fn<T>(connection.fn);
  std::vector<float> products;
  for (size_t stream = 0; stream < k; stream += width) {
    for (size_t begin = stream; begin < streams.size(); begin += k) {
      for (size_t row = stream; row < parts.size(); row += k) {
        double sum = 0;
        for (size_t i = 0; i < width; ++i)
          sum += double{to_float(parts[row + i])} * double{to_float(streams[begin + i])};
        products.push_back(static_cast<float>(sum));
      }
    }
  }
  return products;
}

// Each op in one call for all rows.
struct CudaOps {
  static void set_up() { SKIP_WITHOUT_CUDA(); }

  template <class T>
  static float amax(const std::vector<T>& values) {
    const auto device_values = uploaded(values);
    const Seen seen;
    CudaStream stream;
    amax_cuda(stream, device_values.data(), values.size(), seen.get());
    stream.synchronize();
    return seen.value();
  }

  template <class T, class From>
  static Rows<T> rmsnorm(const std::vector<From>& x, size_t width, const std::vector<float>* weight,
                         float eps) {
    const auto device_x = uploaded(x);
    const auto device_weight = uploaded(weight == nullptr ? std::vector<float>() : *weight);
    const auto y = poisoned<T>(x.size());
    const Seen seen;
    CudaStream stream;
    rmsnorm_cuda(stream, device_x.data(), x.size() / width, width, device_weight.data(), eps, y.data(),
                 seen.get());
    stream.synchronize();
    return {downloaded(y), seen.value()};
  }

  template <class T, class From>
  static std::vector<T> norm_and_turn(const std::vector<From>& x, size_t width,
                                      const std::vector<float>& weight, float eps, const Rope& rope,
                                      const std::vector<uint32_t>& positions) {
    const auto device_x = uploaded(x);
    const auto device_weight = uploaded(weight);
    const auto device_positions = uploaded(positions);
    const DeviceRope device_rope(rope);
    const auto y = poisoned<T>(x.size());
    CudaStream stream;
    norm_and_turn_cuda(stream, device_x.data(), positions.size(), width, device_weight.data(), eps,
                       device_rope.view(), device_positions.data(), y.data());
    stream.synchronize();
    return downloaded(y);
  }

  template <class T>
  static Activated<T> swiglu(const std::vector<float>& gate_up, size_t inner, float limit,
                             const std::vector<float>& weights) {
    const auto device_gate_up = uploaded(gate_up);
    const auto device_weights = uploaded(weights);
    const auto out = poisoned<T>(gate_up.size() / 2);
    const Seen unweighted, weighted;
    CudaStream stream;
    swiglu_cuda(stream, device_gate_up.data(), gate_up.size() / (2 * inner), inner, limit,
                device_weights.data(), out.data(), unweighted.get(), weighted.get());
    stream.synchronize();
    return {downloaded(out), {unweighted.value(), weighted.value()}};
  }

  template <class T>
  static Mixed<T> mix_streams(const HyperConnection& connection, const std::vector<float>& norm,
                              const std::vector<T>& streams) {
    const size_t tokens = streams.size() / (connection.streams * connection.width);
    const DeviceConnection device(connection);
    const auto device_streams = uploaded(streams);
    const auto products = uploaded(fn_products(connection, streams));
    const auto device_norm = uploaded(norm);
    const auto x = poisoned<T>(tokens * connection.width);
    const auto mixes = poisoned<StreamMix>(tokens);
    const Seen seen;
    CudaStream stream;
    mix_streams_cuda(stream, device.view, device_streams.data(), tokens, products.data(), device_norm.data(),
                     x.data(), mixes.data(), seen.get());
    stream.synchronize();
    return {downloaded(x), downloaded(mixes), seen.value()};
  }

  template <class T>
  static std::vector<T> merge_streams(const HyperConnection& head, const std::vector<float>& norm,
                                      const std::vector<T>& streams) {
    const size_t tokens = streams.size() / (head.streams * head.width);
    const DeviceConnection device(head);
    const auto device_streams = uploaded(streams);
    const auto products = uploaded(fn_products(head, streams));
    const auto device_norm = uploaded(norm);
    const auto x = poisoned<T>(tokens * head.width);
    CudaStream stream;
    merge_streams_cuda(stream, device.view, device_streams.data(), tokens, products.data(),
                       device_norm.data(), x.data());
    stream.synchronize();
    return downloaded(x);
  }

  template <class T>
  static Rows<T> spread_to_streams(const std::vector<StreamMix>& mixes, const std::vector<T>& y, size_t n,
                                   const std::vector<T>& streams) {
    const auto device_mixes = uploaded(mixes);
    const auto device_y = uploaded(y);
    const auto device_streams = uploaded(streams);
    const Seen seen;
    CudaStream stream;
    spread_to_streams_cuda(stream, device_mixes.data(), device_y.data(), mixes.size(), n,
                           y.size() / mixes.size(), device_streams.data(), seen.get());
    stream.synchronize();
    return {downloaded(device_streams), seen.value()};
  }

  static Routed route(const std::vector<float>& logits, const std::vector<float>& bias, size_t top,
                      float scaling) {
    const size_t experts = bias.size(), tokens = logits.size() / experts;
    const auto device_bias = uploaded(bias);
    const RouterView router{static_cast<uint32_t>(experts), static_cast<uint32_t>(top), scaling,
                            device_bias.data(), nullptr};
    const auto device_logits = uploaded(logits);
    const auto chosen = poisoned<int32_t>(tokens * top);
    const auto weights = poisoned<float>(tokens * top);
    const auto faults = uploaded(std::vector<RouterFaults>(1));
    CudaStream stream;
    route_cuda(stream, router, device_logits.data(), nullptr, tokens, chosen.data(), weights.data(),
               faults.data());
    stream.synchronize();
    const RouterFaults found = downloaded(faults)[0];
    EXPECT_EQ(found.unknown_expert, 0u);
    return {downloaded(chosen), downloaded(weights), found.nan_score != 0};
  }

  template <class T>
  static std::vector<T> round(const std::vector<float>& x) {
    const auto device_x = uploaded(x);
    const auto out = poisoned<T>(x.size());
    CudaStream stream;
    round_cuda(stream, device_x.data(), x.size(), out.data());
    stream.synchronize();
    return downloaded(out);
  }
};

using CudaTypes = ::testing::Types<On<CudaOps, float>, On<CudaOps, bf16>>;
}  // namespace

namespace testing {
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, Elementwise, CudaTypes);
}

namespace {

template <class T>
bool same_bytes(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

template <class T>
std::vector<T> joined(std::vector<T> a, const std::vector<T>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

template <class T>
class ElementwiseCuda : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_CUDA(); }
};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(ElementwiseCuda, Types);

TYPED_TEST(ElementwiseCuda, PartsOfFnSumToIt) {
  std::vector<float> fn = random_values(4097, 61);
  fn[0] = 0, fn[1] = 1, fn[2] = 0x1.fffffep-3f, fn[3] = -0x1.010101p-20f;
  const std::vector<TypeParam> parts = split_fn<TypeParam>(fn);
  for (size_t i = 0; i < fn.size(); ++i) {
    float sum = to_float(parts[i]);
    for (size_t part = 1; part < kFnParts<TypeParam>; ++part) sum += to_float(parts[part * fn.size() + i]);
    ASSERT_EQ(sum, fn[i]) << i;
  }
}

// For f(first row, rows), which gives the bytes of an op's result: twice the same, and whole as in parts.
template <class F>
void expect_rows_alone(size_t rows, const F& f) {
  const auto whole = f(0, rows);
  EXPECT_TRUE(same_bytes(whole, f(0, rows)));
  EXPECT_TRUE(same_bytes(whole, joined(f(0, 1), f(1, rows - 1))));
  EXPECT_TRUE(same_bytes(whole, joined(f(0, rows - 3), f(rows - 3, 3))));
}

TYPED_TEST(ElementwiseCuda, ResultsOfARowDependOnNothingElse) {
  const size_t rows = 21;
  for (const size_t width : {7168, 512, 33}) {
    SCOPED_TRACE(width);
    const auto x = rounded<TypeParam>(random_values(rows * width, 62));
    const std::vector<float> norm = random_values(width, 63);
    expect_rows_alone(rows, [&](size_t first, size_t count) {
      return CudaOps::rmsnorm<TypeParam>(rows_of(x, width, first, count), width, &norm, 1e-6f).values;
    });
    const std::vector<float> gate_up = random_values(rows * 2 * width, 64), weights = random_values(rows, 65);
    expect_rows_alone(rows, [&](size_t first, size_t count) {
      return CudaOps::swiglu<TypeParam>(rows_of(gate_up, 2 * width, first, count), width, 10,
                                        rows_of(weights, 1, first, count))
          .out;
    });
  }
}

TYPED_TEST(ElementwiseCuda, MixesOfATokenDependOnNothingElse) {
  const size_t rows = 9, n = 4;
  for (const size_t width : {7168, 33}) {
    SCOPED_TRACE(width);
    const HyperConnection connection{n,
                                     width,
                                     20,
                                     1e-6f,
                                     1e-6f,
                                     random_values((2 + n) * n * n * width, 66, 0.01f),
                                     random_values((2 + n) * n, 67),
                                     {1, 1, 1}};
    const std::vector<float> norm = random_values(width, 68);
    const auto streams = rounded<TypeParam>(random_values(rows * n * width, 69));
    const auto mix = [&](size_t first, size_t count) {
      return CudaOps::mix_streams(connection, norm, rows_of(streams, n * width, first, count));
    };
    expect_rows_alone(rows, [&](size_t first, size_t count) { return mix(first, count).x; });
    expect_rows_alone(rows, [&](size_t first, size_t count) { return mix(first, count).mixes; });
    expect_rows_alone(rows, [&](size_t first, size_t count) {
      const Mixed<TypeParam> mixed = mix(first, count);
      return CudaOps::spread_to_streams(mixed.mixes, mixed.x, n, rows_of(streams, n * width, first, count))
          .values;
    });
  }
}

TYPED_TEST(ElementwiseCuda, NormsInPlace) {
  for (const size_t width : {512, 7168, 33, 40000}) {
    const auto x = rounded<TypeParam>(random_values(5 * width, 70));
    const std::vector<float> norm = random_values(width, 71);
    const auto expected = CudaOps::rmsnorm<TypeParam>(x, width, &norm, 1e-6f).values;
    const auto device_x = uploaded(x);
    const auto device_norm = uploaded(norm);
    CudaStream stream;
    rmsnorm_cuda(stream, device_x.data(), 5, width, device_norm.data(), 1e-6f, device_x.data(), nullptr);
    stream.synchronize();
    EXPECT_TRUE(same_bytes(downloaded(device_x), expected)) << width;
  }
}

// Memory that does not begin at a multiple of 16 bytes.
TYPED_TEST(ElementwiseCuda, TakesAnyAddress) {
  const size_t rows = 3, width = 1024;
  const auto x = rounded<TypeParam>(random_values(rows * width + 1, 72));
  const auto device_x = uploaded(x);
  const auto out = poisoned<TypeParam>(rows * width + 1);
  const Seen seen;
  CudaStream stream;
  amax_cuda(stream, device_x.data() + 1, rows * width, seen.get());
  rmsnorm_cuda(stream, device_x.data() + 1, rows, width, static_cast<const float*>(nullptr), 1e-6f,
               out.data() + 1, nullptr);
  stream.synchronize();
  EXPECT_EQ(seen.value(), amax(x.data() + 1, rows * width));
  const std::vector<TypeParam> found = downloaded(out);
  std::vector<TypeParam> expected(width);
  for (size_t row = 0; row < rows; ++row) {
    rmsnorm_ref(x.data() + 1 + row * width, width, nullptr, 1e-6f, expected.data());
    for (size_t i = 0; i < width; ++i) {
      const float value = to_float(expected[i]);
      ASSERT_TRUE(std::abs(to_float(found[1 + row * width + i]) - value) <= 2 * unit<TypeParam>(value)) << i;
    }
  }
}

TYPED_TEST(ElementwiseCuda, EmbedsTheIdsThatAreThere) {
  const uint64_t first = 100, count = 50;
  const std::vector<int32_t> ids = {99, 100, 149, 150, 0, 120, 120, -1, 149};
  for (const size_t width : {7168, 64, 17}) {
    for (const size_t n : {1, 4}) {
      const auto embedding = rounded<bf16>(random_values(count * width, 73));
      const auto device_embedding = uploaded(embedding);
      const auto device_ids = uploaded(ids);
      const auto device_streams = poisoned<TypeParam>(ids.size() * n * width);
      const std::vector<TypeParam> before = downloaded(device_streams);
      const Seen seen;
      CudaStream stream;
      embed_cuda(stream, device_embedding.data(), first, count, device_ids.data(), ids.size(), n, width,
                 device_streams.data(), seen.get());
      stream.synchronize();
      const std::vector<TypeParam> streams = downloaded(device_streams);
      float largest = 0;
      for (size_t row = 0; row < ids.size() * n; ++row) {
        const int64_t id = ids[row / n] - static_cast<int64_t>(first);
        const bool there = id >= 0 && id < static_cast<int64_t>(count);
        std::vector<TypeParam> expected = rows_of(before, width, row, 1);
        if (there) {
          const std::vector<bf16> taken = rows_of(embedding, width, static_cast<size_t>(id), 1);
          for (size_t i = 0; i < width; ++i) expected[i] = from_float<TypeParam>(to_float(taken[i]));
          largest = std::max(largest, amax(taken.data(), width));
        }
        EXPECT_TRUE(same_bytes(rows_of(streams, width, row, 1), expected)) << width << " " << row;
      }
      EXPECT_EQ(seen.value(), largest);
    }
  }
}

TYPED_TEST(ElementwiseCuda, GathersRows) {
  const std::vector<uint32_t> tokens = {5, 0, 9, 9, 3, 1, 2, 8, 4, 0};
  for (const size_t width : {7168, 64, 17}) {
    const auto x = rounded<TypeParam>(random_values(10 * width, 74));
    const auto device_x = uploaded(x);
    const auto device_tokens = uploaded(tokens);
    const auto out = poisoned<TypeParam>(tokens.size() * width);
    const Seen seen;
    CudaStream stream;
    gather_rows_cuda(stream, device_x.data(), width, device_tokens.data(), tokens.size(), out.data(),
                     seen.get());
    stream.synchronize();
    const std::vector<TypeParam> found = downloaded(out);
    for (size_t row = 0; row < tokens.size(); ++row) {
      EXPECT_TRUE(same_bytes(rows_of(found, width, row, 1), rows_of(x, width, tokens[row], 1))) << row;
    }
    EXPECT_EQ(seen.value(), amax(found.data(), found.size()));
  }
}

TYPED_TEST(ElementwiseCuda, NoRowsAreNoWork) {
  const Seen seen;
  CudaStream stream;
  const TypeParam* none = nullptr;
  TypeParam* nowhere = nullptr;
  const float* no_floats = nullptr;
  amax_cuda(stream, none, 0, seen.get());
  rmsnorm_cuda(stream, none, 0, 512, no_floats, 1e-6f, nowhere, seen.get());
  norm_and_turn_cuda(stream, none, 0, 512, no_floats, 1e-6f, {}, nullptr, nowhere);
  swiglu_cuda(stream, no_floats, 0, 512, 10, no_floats, nowhere, seen.get(), seen.get());
  split_fn_cuda(stream, no_floats, 0, nowhere);
  mix_streams_cuda(stream, {.streams = 4, .width = 512}, none, 0, no_floats, no_floats, nowhere, nullptr,
                   seen.get());
  merge_streams_cuda(stream, {.streams = 4, .width = 512}, none, 0, no_floats, no_floats, nowhere);
  spread_to_streams_cuda(stream, nullptr, none, 0, 4, 512, nowhere, seen.get());
  embed_cuda(stream, nullptr, 0, 0, nullptr, 0, 4, 512, nowhere, seen.get());
  gather_rows_cuda(stream, none, 512, nullptr, 0, nowhere, seen.get());
  scatter_add_rows_cuda(stream, no_floats, 512, nullptr, 0, nullptr);
  route_cuda(stream, {.experts = 384, .top = 6}, no_floats, nullptr, 0, nullptr, nullptr, nullptr);
  stream.synchronize();
  EXPECT_EQ(seen.value(), 0);
}

TEST(RowsCuda, ScatterAddsToItsRowsOnly) {
  SKIP_WITHOUT_CUDA();
  const std::vector<uint32_t> tokens = {5, 0, 9, 3, 1, 8};
  for (const size_t width : {7168, 64, 17}) {
    const std::vector<float> y = random_values(tokens.size() * width, 75);
    std::vector<float> expected = random_values(10 * width, 76);
    const auto device_y = uploaded(y), sum = uploaded(expected);
    const auto device_tokens = uploaded(tokens);
    CudaStream stream;
    scatter_add_rows_cuda(stream, device_y.data(), width, device_tokens.data(), tokens.size(), sum.data());
    stream.synchronize();
    for (size_t i = 0; i < y.size(); ++i) expected[tokens[i / width] * width + i % width] += y[i];
    EXPECT_TRUE(same_bytes(downloaded(sum), expected)) << width;
  }
}

TEST(RowsCuda, ScatterAddsTimesWeights) {
  SKIP_WITHOUT_CUDA();
  const std::vector<uint32_t> tokens = {5, 0, 9, 3};
  const std::vector<float> weights = {0.5f, 2, -1, 0};  // whose products are exact
  const size_t width = 96;
  const std::vector<float> y = random_values(tokens.size() * width, 77);
  std::vector<float> expected = random_values(10 * width, 78);
  const auto device_y = uploaded(y), sum = uploaded(expected), device_weights = uploaded(weights);
  const auto device_tokens = uploaded(tokens);
  CudaStream stream;
  scatter_add_rows_cuda(stream, device_y.data(), width, device_tokens.data(), tokens.size(), sum.data(),
                        device_weights.data());
  stream.synchronize();
  for (size_t i = 0; i < y.size(); ++i)
    expected[tokens[i / width] * width + i % width] += y[i] * weights[i / width];
  EXPECT_TRUE(same_bytes(downloaded(sum), expected));
}

struct HashRouted {
  std::vector<int32_t> chosen;
  std::vector<float> weights;
  RouterFaults faults;
};

HashRouted route_by_hash(const std::vector<float>& logits, size_t experts,
                         const std::vector<int64_t>& tid2eid, size_t top, const std::vector<int32_t>& ids) {
  const auto table = uploaded(tid2eid);
  const auto device_logits = uploaded(logits);
  const auto device_ids = uploaded(ids);
  const auto chosen = poisoned<int32_t>(ids.size() * top);
  const auto weights = poisoned<float>(ids.size() * top);
  const auto faults = uploaded(std::vector<RouterFaults>(1));
  CudaStream stream;
  route_cuda(
      stream, {static_cast<uint32_t>(experts), static_cast<uint32_t>(top), 1.5f, nullptr, table.data()},
      device_logits.data(), device_ids.data(), ids.size(), chosen.data(), weights.data(), faults.data());
  stream.synchronize();
  return {downloaded(chosen), downloaded(weights), downloaded(faults)[0]};
}

TEST(RouterCuda, HashLayersLookExpertsUp) {
  SKIP_WITHOUT_CUDA();
  const size_t experts = 384, top = 6, vocabulary = 40;
  std::vector<int64_t> table;
  for (size_t i = 0; i < vocabulary * top; ++i) table.push_back(static_cast<int64_t>((i * 61) % experts));
  const std::vector<int32_t> ids = {0, 39, 7, 7, 12, 1, 2, 3, 4, 5, 38};
  const std::vector<float> logits = random_values(ids.size() * experts, 77, 4);
  const HashRouted found = route_by_hash(logits, experts, table, top, ids);
  std::vector<float> scores(experts), weights(top);
  for (size_t token = 0; token < ids.size(); ++token) {
    const int32_t* chosen = found.chosen.data() + token * top;
    for (size_t i = 0; i < top; ++i)
      ASSERT_EQ(chosen[i], table[static_cast<size_t>(ids[token]) * top + i]) << token << " " << i;
    router_scores(logits.data() + token * experts, experts, scores.data());
    routing_weights(scores.data(), chosen, top, 1.5f, weights.data());
    for (size_t i = 0; i < top; ++i)
      ASSERT_NEAR(found.weights[token * top + i], weights[i], 2e-6f * weights[i]) << token << " " << i;
  }
  EXPECT_EQ(found.faults.nan_score, 0u);
  EXPECT_EQ(found.faults.unknown_expert, 0u);
}

TEST(RouterCuda, NamesTheLastTokenWithAnUnknownExpert) {
  SKIP_WITHOUT_CUDA();
  const std::vector<int64_t> table = {0, 1, 4, 2, 3, -1, 2, 1};  // of 4 experts, 2 a token
  const std::vector<float> logits = random_values(5 * 4, 78);
  const HashRouted found = route_by_hash(logits, 4, table, 2, {0, 1, 2, 0, 3});
  EXPECT_EQ(found.faults.unknown_expert, 3u);
  EXPECT_EQ(found.faults.nan_score, 0u);
  for (const int32_t expert : found.chosen) EXPECT_TRUE(expert >= 0 && expert < 4);
}

TEST(RouterCuda, NamesTheLastTokenWithANaN) {
  SKIP_WITHOUT_CUDA();
  const size_t experts = 64, top = 4, tokens = 30;
  std::vector<float> logits = random_values(tokens * experts, 79);
  logits[3 * experts + 63] = NAN;
  logits[17 * experts] = NAN;
  const auto bias = uploaded(std::vector<float>(experts, 0.0f));
  const auto device_logits = uploaded(logits);
  const auto chosen = poisoned<int32_t>(tokens * top);
  const auto weights = poisoned<float>(tokens * top);
  const auto faults = uploaded(std::vector<RouterFaults>(1));
  CudaStream stream;
  route_cuda(stream, {experts, top, 1, bias.data(), nullptr}, device_logits.data(), nullptr, tokens,
             chosen.data(), weights.data(), faults.data());
  stream.synchronize();
  EXPECT_EQ(downloaded(faults)[0].nan_score, 18u);
  EXPECT_EQ(downloaded(faults)[0].unknown_expert, 0u);
  for (const int32_t expert : downloaded(chosen)) EXPECT_TRUE(expert >= 0 && expert < 64);
}

TEST(CrossEntropyCuda, MatchesItsDefinition) {
  SKIP_WITHOUT_CUDA();
  const size_t tokens = 37, count = 1000, stride = 1024;
  std::vector<float> logits = random_values(tokens * stride, 80, 5);
  logits[4 * stride + 17] = NAN;
  std::vector<int32_t> targets(tokens);
  for (size_t token = 0; token < tokens; ++token) targets[token] = static_cast<int32_t>(token * 53);
  targets[2] = -1;
  std::vector<CrossEntropy> expected(tokens);
  const auto states = uploaded(expected);
  const auto device_logits = uploaded(logits);
  const auto device_targets = uploaded(targets);
  CudaStream stream;
  for (const uint64_t first : {0u, 1000u}) {
    add_logits_cuda(stream, device_logits.data(), tokens, count, stride, first, device_targets.data(),
                    states.data());
    for (size_t token = 0; token < tokens; ++token)
      add_logits_ref(logits.data() + token * stride, count, first, targets[token], expected[token]);
  }
  stream.synchronize();
  const auto found = downloaded(states);
  for (size_t token = 0; token < tokens; ++token) {
    if (token == 2) {
      EXPECT_EQ(found[token].sum, 0);
    } else if (token == 4) {
      EXPECT_TRUE(std::isnan(value(found[token])));
    } else {
      EXPECT_NEAR(value(found[token]), value(expected[token]), 1e-5) << token;
    }
  }
}

}  // namespace
}  // namespace nibblecast
