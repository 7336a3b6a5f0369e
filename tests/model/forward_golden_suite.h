// tests/model/forward_golden_suite.h - the forward pass against goldens made with transformers in float32
// (tools/make_forward_golden.py) for what the shared tiny model does not exercise: SwiGLU's clamp on both
// sides, in routed and shared experts, and a sliding layer, with one row shorter and one longer than its
// window.
//
// One text for every device: what includes it defines Device (with its Forward<T>) and
// SKIP_WITHOUT_DEVICE() before.
#pragma once

#include <cmath>
#include <numeric>

#include "forward_testing.h"

namespace nibblecast {
namespace {

using testing::Model;
using testing::TensorFile;

constexpr size_t kRows = 2;

class ForwardGolden : public ::testing::Test {
 protected:
  ForwardGolden() : golden(folder / "golden.safetensors"), model(folder) {
    for (size_t row = 0; row < kRows; ++row) rows.push_back(golden.read<int32_t>(name(row, "input_ids")));
  }
  static std::string name(size_t row, const std::string& what) {
    return "row" + std::to_string(row) + "." + what;
  }

  const std::filesystem::path folder =
      std::filesystem::path(NIBBLECAST_SOURCE_DIR) / "tests/model/golden/clamp-and-sliding";
  const TensorFile golden;
  Model model;
  std::vector<std::vector<int32_t>> rows;
};

// Norm of the difference over the norm. NaN where either has one.
double relative_error(std::span<const float> found, std::span<const float> expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += std::pow(double{found[i]} - double{expected[i]}, 2);
    norm += std::pow(double{expected[i]}, 2);
  }
  return std::sqrt(difference / norm);
}

void expect_near(std::span<const float> found, std::span<const float> expected, double tolerance,
                 const std::string& what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_TRUE(std::fabs(double{found[i]} - double{expected[i]}) <= tolerance)
        << what << "[" << i << "]: " << found[i] << ", expected " << expected[i];
  }
}

TEST_F(ForwardGolden, RowsAreShorterAndLongerThanTheWindow) {
  SKIP_WITHOUT_DEVICE();
  EXPECT_EQ(model.config().compress_ratios, (std::vector<uint32_t>{4, 0}));
  EXPECT_LT(rows[0].size(), model.config().sliding_window);
  EXPECT_GT(rows[1].size(), 2 * model.config().sliding_window);
}

TEST_F(ForwardGolden, StreamsLogitsAndLossesAreThoseOfTransformers) {
  SKIP_WITHOUT_DEVICE();
  Device::Forward<float> forward(model.config(), rows);
  const size_t stride = model.config().hc_mult * model.config().hidden_size;
  model.run(forward, [&](uint64_t layer, const LayerAmax& amax) {
    const std::string prefix = "layers." + std::to_string(layer) + ".";
    std::vector<int64_t> tokens(model.config().n_routed_experts);
    size_t begin = 0;
    for (size_t row = 0; row < kRows; ++row) {
      const size_t count = rows[row].size() * stride;
      const double error = relative_error(forward.streams().subspan(begin, count),
                                          golden.read<float>(name(row, prefix + "streams")));
      EXPECT_TRUE(error <= 1e-5) << name(row, prefix) << "streams: " << error;
      begin += count;
      for (const int32_t expert : golden.read<int32_t>(name(row, prefix + "experts_sorted"))) {
        ++tokens.at(static_cast<size_t>(expert));
      }
    }
    EXPECT_EQ(amax.tokens, tokens) << prefix;
  });
  testing::LogitsKeeper logits(rows[0].size() + rows[1].size(), model.config().vocab_size);
  const RowLosses nll = model.run_head(forward, logits.sink());
  ASSERT_EQ(nll.size(), kRows);
  for (size_t row = 0, token = 0; row < kRows; token += rows[row].size(), ++row) {
    expect_near(logits.rows(token, rows[row].size()), golden.read<float>(name(row, "logits")), 1e-4,
                name(row, "logits"));
    expect_near(nll[row], golden.read<float>(name(row, "nll")), 1e-4, name(row, "nll"));
  }
}

// What enters w2 is silu(gate) * up with gate <= limit and |up| <= limit: the bound is nearly met, never
// passed.
TEST_F(ForwardGolden, ClampBoundsTheInputOfW2) {
  SKIP_WITHOUT_DEVICE();
  Device::Forward<float> forward(model.config(), rows);
  const float bound = static_cast<float>(model.config().swiglu_limit * model.config().swiglu_limit);
  model.run(forward, [&](uint64_t layer, const LayerAmax& amax) {
    for (const float w2 : amax.taps.at("experts.mid")) {
      EXPECT_LE(w2, bound) << "layer " << layer;
      EXPECT_GT(w2, 0.99f * bound) << "layer " << layer;
    }
    const float shared = amax.taps.at("shared.mid").at(0);
    EXPECT_LE(shared, bound) << "layer " << layer;
    EXPECT_GT(shared, 0.99f * bound) << "layer " << layer;
  });
}

}  // namespace
}  // namespace nibblecast
