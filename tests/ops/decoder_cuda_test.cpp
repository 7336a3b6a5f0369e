#include <gtest/gtest.h>

#include <bit>
#include <vector>

#include "cuda_testing.h"
#include "ops/activation_cuda.h"
#include "ops/amax.h"
#include "ops/decoder_suite.h"
#include "ops/heads_cuda.h"
#include "ops/latent_heads_cuda.h"
#include "ops/rmsnorm_cuda.h"
#include "ops/round.h"
#include "ops/router_cuda.h"
#include "ops/rows_cuda.h"

namespace nibblecast {
namespace {

using testing::Activated;
using testing::Decoder;
using testing::downloaded;
using testing::On;
using testing::poisoned;
using testing::random_values;
using testing::rounded;
using testing::Routed;
using testing::Rows;
using testing::uploaded;

float value_of(const DeviceArray<uint32_t>& seen) { return std::bit_cast<float>(downloaded(seen)[0]); }

// Each op in one call for all rows.
struct CudaDecoder {
  static void set_up() { SKIP_WITHOUT_CUDA(); }

  template <class T, class From>
  static Rows<T> norm(const std::vector<From>& x, size_t width, const std::vector<float>& weight,
                      NormWeight use, float eps) {
    const auto device_x = uploaded(x);
    const auto device_weight = uploaded(weight);
    const auto y = poisoned<T>(x.size());
    const auto seen = uploaded(std::vector<uint32_t>{0});
    CudaStream stream;
    rmsnorm_cuda(stream, device_x.data(), x.size() / width, width,
                 weight.empty() ? nullptr : device_weight.data(), use, eps, y.data(), seen.data());
    stream.synchronize();
    return {downloaded(y), value_of(seen)};
  }

  template <class T, class From>
  static std::vector<T> norm_and_turn_heads(const std::vector<From>& x, size_t heads, size_t width,
                                            const HeadNorm* norm, const Rope* rope,
                                            const std::vector<uint32_t>& positions, RopePlace place) {
    const auto device_x = uploaded(x);
    const auto device_positions = uploaded(positions);
    const auto weight = uploaded(norm == nullptr ? std::vector<float>()
                                                 : std::vector<float>(norm->weight, norm->weight + width));
    const DeviceRope device_rope = rope == nullptr ? DeviceRope() : DeviceRope(*rope);
    HeadNorm own;
    if (norm != nullptr) own = {weight.data(), norm->use, norm->eps};
    const auto y = poisoned<T>(x.size());
    CudaStream stream;
    norm_and_turn_heads_cuda(stream, device_x.data(), positions.size(), heads, width,
                             norm == nullptr ? nullptr : &own, device_rope.view(place),
                             device_positions.data(), y.data());
    stream.synchronize();
    return downloaded(y);
  }

  template <class T>
  static std::pair<std::vector<T>, std::vector<T>> spread_latent(const LatentHeads& shape,
                                                                 const std::vector<float>& expanded,
                                                                 const std::vector<T>& shared) {
    const size_t tokens = shared.size() / shape.shared;
    const auto device_expanded = uploaded(expanded);
    const auto device_shared = uploaded(shared);
    const auto keys = poisoned<T>(tokens * shape.heads * shape.key_width());
    const auto values = poisoned<T>(tokens * shape.heads * shape.value);
    CudaStream stream;
    spread_latent_cuda(stream, shape, device_expanded.data(), static_cast<const T*>(device_shared.data()),
                       tokens, keys.data(), values.data());
    stream.synchronize();
    return {downloaded(keys), downloaded(values)};
  }

  template <class T>
  static Activated<T> activate(const Activation& activation, const std::vector<float>& inputs, size_t inner,
                               const std::vector<float>& weights) {
    const size_t rows = inputs.size() / (activation.gated() ? 2 * inner : inner);
    const auto device_inputs = uploaded(inputs), device_weights = uploaded(weights);
    const auto out = poisoned<T>(rows * inner);
    const auto unweighted = uploaded(std::vector<uint32_t>{0}), weighted = uploaded(std::vector<uint32_t>{0});
    CudaStream stream;
    activate_cuda(stream, activation, device_inputs.data(), rows, inner,
                  weights.empty() ? nullptr : device_weights.data(), out.data(), unweighted.data(),
                  weighted.data());
    stream.synchronize();
    return {downloaded(out), {value_of(unweighted), value_of(weighted)}};
  }

  static Routed route(const RouterSpec& router, const std::vector<float>& logits,
                      const std::vector<float>& bias) {
    const size_t tokens = logits.size() / router.experts;
    const auto device_logits = uploaded(logits), device_bias = uploaded(bias);
    const auto chosen = poisoned<int32_t>(tokens * router.top);
    const auto weights = poisoned<float>(tokens * router.top);
    const auto faults = uploaded(std::vector<RouterFaults>(1));
    CudaStream stream;
    route_cuda(stream, router_view(router, bias.empty() ? nullptr : device_bias.data()), device_logits.data(),
               nullptr, tokens, chosen.data(), weights.data(), faults.data());
    stream.synchronize();
    return {downloaded(chosen), downloaded(weights), downloaded(faults)[0].nan_score != 0};
  }

  template <class T>
  static std::vector<T> add_bias(const std::vector<float>& x, const std::vector<float>& bias) {
    const auto device_x = uploaded(x), device_bias = uploaded(bias);
    const auto y = poisoned<T>(x.size());
    CudaStream stream;
    add_bias_cuda(stream, static_cast<const float*>(device_x.data()), x.size() / bias.size(), bias.size(),
                  device_bias.data(), y.data());
    stream.synchronize();
    return downloaded(y);
  }
};

using CudaTypes = ::testing::Types<On<CudaDecoder, float>, On<CudaDecoder, bf16>>;
}  // namespace

namespace testing {
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, Decoder, CudaTypes);
}

namespace {

template <class T>
class DecoderCuda : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_CUDA(); }
};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(DecoderCuda, Types);

TYPED_TEST(DecoderCuda, HeadsInPlace) {
  const size_t tokens = 5, heads = 6, width = 128;
  const auto x = rounded<TypeParam>(random_values(tokens * heads * width, 80));
  const std::vector<float> weight = random_values(width, 81);
  const std::vector<uint32_t> positions = {4, 0, 3, 1, 2};
  const HeadNorm norm{weight.data(), NormWeight::kRoundedTimes, 1e-6f};
  const Rope rope = make_rope({.dims = 64}, 5);
  const auto expected = CudaDecoder::norm_and_turn_heads<TypeParam>(x, heads, width, &norm, &rope, positions,
                                                                    RopePlace::kFirst);
  const auto device_x = uploaded(x);
  const auto device_weight = uploaded(weight);
  const auto device_positions = uploaded(positions);
  const DeviceRope device_rope(rope);
  const HeadNorm own{device_weight.data(), norm.use, norm.eps};
  CudaStream stream;
  norm_and_turn_heads_cuda(stream, device_x.data(), tokens, heads, width, &own, device_rope.view(),
                           device_positions.data(), device_x.data());
  stream.synchronize();
  const std::vector<TypeParam> found = downloaded(device_x);
  for (size_t i = 0; i < found.size(); ++i) ASSERT_EQ(to_float(found[i]), to_float(expected[i])) << i;
}

// Widths of whole packs and others.
constexpr size_t kWidths[] = {512, 96, 17};

TYPED_TEST(DecoderCuda, AddsBeforeRounding) {
  for (const size_t width : kWidths) {
    const std::vector<float> y = random_values(5 * width, 82);
    std::vector<TypeParam> x = rounded<TypeParam>(random_values(5 * width, 83));
    const auto device_y = uploaded(y);
    const auto device_x = uploaded(x);
    const auto seen = uploaded(std::vector<uint32_t>{0});
    CudaStream stream;
    add_rounded_cuda(stream, device_y.data(), 5, width, device_x.data(), seen.data());
    stream.synchronize();
    add_rounded(y.data(), y.size(), x.data());
    const std::vector<TypeParam> found = downloaded(device_x);
    for (size_t i = 0; i < found.size(); ++i)
      ASSERT_EQ(to_float(found[i]), to_float(x[i])) << width << " " << i;
    EXPECT_EQ(value_of(seen), amax(x.data(), x.size()));
  }
}

TYPED_TEST(DecoderCuda, WeighsBeforeItLooks) {
  for (const size_t width : kWidths) {
    const auto values = rounded<TypeParam>(random_values(7 * width, 84));
    const std::vector<float> weights = random_values(7, 85);
    const auto device_values = uploaded(values);
    const auto device_weights = uploaded(weights);
    const auto seen = uploaded(std::vector<uint32_t>{0});
    CudaStream stream;
    weighted_amax_cuda(stream, device_values.data(), 7, width, device_weights.data(), seen.data());
    stream.synchronize();
    std::vector<TypeParam> weighted;
    for (size_t i = 0; i < values.size(); ++i)
      weighted.push_back(from_float<TypeParam>(to_float(values[i]) * weights[i / width]));
    EXPECT_EQ(value_of(seen), amax(weighted.data(), weighted.size())) << width;
  }
}

// Two products side by side, each with its bias.
TYPED_TEST(DecoderCuda, AddsBiasToRowsThatAreApart) {
  for (const size_t width : kWidths) {
    const std::vector<float> x = random_values(3 * 2 * width, 86), bias = random_values(width, 87);
    const auto device_x = uploaded(x), device_bias = uploaded(bias);
    CudaStream stream;
    add_bias_cuda(stream, device_x.data() + width, 3, width, device_bias.data(), device_x.data() + width,
                  2 * width);
    stream.synchronize();
    const std::vector<float> found = downloaded(device_x);
    for (size_t i = 0; i < x.size(); ++i) {
      const bool second = i % (2 * width) >= width;
      ASSERT_EQ(found[i], second ? x[i] + bias[i % width] : x[i]) << width << " " << i;
    }
  }
}

}  // namespace
}  // namespace nibblecast
