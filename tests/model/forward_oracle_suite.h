// tests/model/forward_oracle_suite.h - the forward pass against transformers 5.17.0 in float32 on the shared
// tiny model (its README says what the oracle holds). Tolerances: what two runs of the oracle's own software
// differ by on other hardware, with room for what near-ties in router and indexer flip.
//
// One text for every device: what includes it defines Device (with its Forward<T>) and
// SKIP_WITHOUT_DEVICE() before.
#pragma once

#include <algorithm>
#include <numeric>

#include "forward_testing.h"

namespace nibblecast {
namespace {

using testing::LogitsKeeper;
using testing::Model;
using testing::TensorFile;

double relative_error(const float* found, const float* expected, size_t count) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < count; ++i) {
    difference += std::pow(double{found[i]} - double{expected[i]}, 2);
    norm += std::pow(double{expected[i]}, 2);
  }
  return std::sqrt(difference / norm);
}

double worst_error(std::span<const float> found, std::span<const float> expected) {
  if (found.size() != expected.size()) return INFINITY;
  double worst = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const double error = std::abs(double{found[i]} - double{expected[i]});
    if (!(error <= worst)) worst = error;  // keeps a NaN
    if (std::isnan(worst)) return worst;
  }
  return worst;
}

// Each token's experts, ascending.
std::vector<int32_t> sorted_experts(std::span<const int32_t> chosen, size_t top) {
  std::vector<int32_t> sorted(chosen.begin(), chosen.end());
  for (size_t i = 0; i < sorted.size(); i += top) std::sort(sorted.begin() + i, sorted.begin() + i + top);
  return sorted;
}

class OracleCase : public ::testing::TestWithParam<size_t> {};

TEST_P(OracleCase, Float32MatchesTransformers) {
  SKIP_WITHOUT_DEVICE();
  SKIP_WITHOUT_SHARED_MODEL(folder, "tiny-v4");
  const TensorFile oracle(folder / "oracle.safetensors");
  Model model(folder);
  const size_t length = GetParam();
  const std::string name = "case.len" + std::to_string(length);
  const std::vector<int32_t> ids = oracle.read<int32_t>(name + ".input_ids");
  Device::Forward<float> forward(model.config(), {ids});
  const size_t stride = model.config().hc_mult * model.config().hidden_size;
  model.run(forward, [&](uint64_t layer, const LayerAmax&) {
    const std::string prefix = name + ".layers." + std::to_string(layer);
    const std::vector<float> streams =
        oracle.read<float>(prefix + (length == 61 ? ".streams" : ".streams_last4"));
    const float* found = forward.streams().data() + length * stride - streams.size();
    for (size_t token = 0; token < streams.size() / stride; ++token) {
      const double error = relative_error(found + token * stride, streams.data() + token * stride, stride);
      EXPECT_TRUE(error <= 1e-5) << "layer " << layer << " token " << token << ": " << error;
    }
    EXPECT_EQ(sorted_experts(forward.chosen_experts(), model.config().num_experts_per_tok),
              oracle.read<int32_t>(prefix + ".experts_sorted"))
        << "layer " << layer;
  });
  LogitsKeeper logits(length, model.config().vocab_size);
  const RowLosses nll = model.run_head(forward, logits.sink());
  EXPECT_TRUE(worst_error(logits.rows(length - 8, 8), oracle.read<float>(name + ".logits_last8")) <= 1e-4);
  EXPECT_TRUE(worst_error(nll.at(0), oracle.read<float>(name + ".nll")) <= 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Lengths, OracleCase, ::testing::Values(61, 130, 300),
                         [](const auto& length) { return "len" + std::to_string(length.param); });

TEST(ForwardOracle, Float32TopKSelectionMatchesTransformers) {
  SKIP_WITHOUT_DEVICE();
  SKIP_WITHOUT_SHARED_MODEL(folder, "tiny-v4");
  const TensorFile oracle(folder / "oracle.safetensors");
  Model model(folder);
  Device::Forward<float> forward(model.config(), {oracle.read<int32_t>("case.len1536.input_ids")});
  model.run(forward);
  LogitsKeeper logits(1536, model.config().vocab_size);
  const std::vector<float> nll = model.run_head(forward, logits.sink()).at(0),
                           expected = oracle.read<float>("case.len1536.nll");
  ASSERT_EQ(nll.size(), expected.size());
  EXPECT_TRUE(worst_error(nll, expected) <= 1e-2) << worst_error(nll, expected);
  size_t close = 0;
  for (size_t i = 0; i < nll.size(); ++i) close += std::abs(nll[i] - expected[i]) <= 1e-4f;
  EXPECT_GE(close, expected.size() * 98 / 100);
  const double error = worst_error(logits.rows(1528, 8), oracle.read<float>("case.len1536.logits_last8"));
  EXPECT_TRUE(error <= 1e-4) << error;
}

template <class T>
std::vector<double> evaluation_nll_sums(Model& model, const TensorFile& oracle) {
  Device::Forward<T> forward(model.config(), oracle.rows("eval.input_ids", 512, 24));
  model.run(forward);
  std::vector<double> sums;
  for (const std::vector<float>& nll : model.run_head(forward))
    sums.push_back(std::accumulate(nll.begin(), nll.end(), 0.0));
  return sums;
}

TEST(ForwardOracle, Float32EvaluationMatchesTransformers) {
  SKIP_WITHOUT_DEVICE();
  SKIP_WITHOUT_SHARED_MODEL(folder, "tiny-v4");
  const TensorFile oracle(folder / "oracle.safetensors");
  Model model(folder);
  const std::vector<double> expected = oracle.read<double>("eval.nll_sum");
  const std::vector<double> found = evaluation_nll_sums<float>(model, oracle);
  for (size_t row = 0; row < 24; ++row) {
    const double error = std::abs(found[row] / expected[row] - 1);
    EXPECT_TRUE(error <= 1e-4) << "row " << row << ": " << error;
  }
  const double total = std::accumulate(expected.begin(), expected.end(), 0.0);
  const double error = std::abs(std::accumulate(found.begin(), found.end(), 0.0) / total - 1);
  EXPECT_TRUE(error <= 1e-5) << error;
}

// Relative error of a perplexity from two sums of nll.
double perplexity_error(double found, double expected, size_t predicted) {
  return std::abs(std::exp((found - expected) / static_cast<double>(predicted)) - 1);
}

TEST(ForwardOracle, Bf16PerplexityIsThatOfFloat32) {
  SKIP_WITHOUT_DEVICE();
  SKIP_WITHOUT_SHARED_MODEL(folder, "tiny-v4");
  const TensorFile oracle(folder / "oracle.safetensors");
  Model model(folder);
  const std::vector<double> expected = oracle.read<double>("eval.nll_sum");
  const std::vector<double> found = evaluation_nll_sums<bf16>(model, oracle);
  const double error = perplexity_error(std::accumulate(found.begin(), found.end(), 0.0),
                                        std::accumulate(expected.begin(), expected.end(), 0.0), 24 * 511);
  EXPECT_TRUE(error <= 1e-3) << error;
  std::printf("relative error %.2e\n", error);
}

TEST(ForwardOracle, Bf16PerplexityOfALongRowIsThatOfFloat32) {
  SKIP_WITHOUT_DEVICE();
  SKIP_WITHOUT_SHARED_MODEL(folder, "tiny-v4");
  const TensorFile oracle(folder / "oracle.safetensors");
  Model model(folder);
  Device::Forward<bf16> forward(model.config(), {oracle.read<int32_t>("case.len1536.input_ids")});
  model.run(forward);
  const std::vector<float> nll = model.run_head(forward).at(0);
  const std::vector<float> expected = oracle.read<float>("case.len1536.nll");
  const double error = perplexity_error(std::accumulate(nll.begin(), nll.end(), 0.0),
                                        std::accumulate(expected.begin(), expected.end(), 0.0), 1535);
  EXPECT_TRUE(error <= 1e-3) << error;
  std::printf("relative error %.2e\n", error);
}

// Of the 48 rows in float32, row by row with whole rows of logits, as the oracle computes its own.
constexpr double kCalibrationPerplexity = 27.541001938;

// Relative errors of all experts' amax, and what the layers differ by.
struct CalibrationErrors {
  std::vector<double> experts;       // sorted
  std::vector<double> layers;        // of each layer's and projection's maximum
  std::vector<int64_t> token_moves;  // per layer: sum of |count - expected|
  double perplexity = 0;             // of the rows
};

template <class T>
CalibrationErrors calibration_errors(Model& model, const TensorFile& oracle) {
  Device::Forward<T> forward(model.config(), oracle.rows("calib.input_ids", 512, 48));
  CalibrationErrors errors;
  model.run(forward, [&](uint64_t layer, const LayerAmax& amax) {
    const std::string prefix = "calib.layers." + std::to_string(layer) + ".experts.";
    const std::pair<const char*, const std::vector<float>*> records[] = {
        {"w13", &amax.taps.at("experts.in")},
        {"w2", &amax.taps.at("experts.mid")},
        {"w2_weighted", &amax.taps.at("experts.mid_weighted")}};
    for (const auto& [name, found] : records) {
      const std::vector<float> expected = oracle.read<float>(prefix + name);
      for (size_t i = 0; i < expected.size(); ++i) {
        errors.experts.push_back(std::abs(double{(*found)[i]} / double{expected[i]} - 1));
      }
      const double largest = *std::max_element(expected.begin(), expected.end());
      errors.layers.push_back(std::abs(*std::max_element(found->begin(), found->end()) / largest - 1));
    }
    const std::vector<float> tokens = oracle.read<float>(prefix + "tokens");
    int64_t moves = 0;
    for (size_t i = 0; i < tokens.size(); ++i) {
      moves += std::abs(amax.tokens[i] - static_cast<int64_t>(tokens[i]));
    }
    errors.token_moves.push_back(moves);
  });
  errors.perplexity = perplexity_of(model.run_head(forward)).value();
  std::sort(errors.experts.begin(), errors.experts.end());
  return errors;
}

TEST(ForwardOracle, Float32CalibrationMatchesTransformers) {
  SKIP_WITHOUT_DEVICE();
  SKIP_WITHOUT_SHARED_MODEL(folder, "tiny-v4");
  Model model(folder);
  const CalibrationErrors errors =
      calibration_errors<float>(model, TensorFile(folder / "oracle.safetensors"));
  for (const double error : errors.layers) EXPECT_TRUE(error <= 1e-4) << error;
  EXPECT_TRUE(errors.experts[errors.experts.size() * 98 / 100] <= 1e-4);
  EXPECT_TRUE(errors.experts.back() <= 1e-2) << errors.experts.back();
  for (const int64_t moves : errors.token_moves) EXPECT_LE(moves, 10);
  EXPECT_TRUE(std::abs(errors.perplexity / kCalibrationPerplexity - 1) <= 1e-4) << errors.perplexity;
}

TEST(ForwardOracle, Bf16CalibrationIsThatOfFloat32) {
  SKIP_WITHOUT_DEVICE();
  SKIP_WITHOUT_SHARED_MODEL(folder, "tiny-v4");
  Model model(folder);
  const CalibrationErrors errors = calibration_errors<bf16>(model, TensorFile(folder / "oracle.safetensors"));
  for (const double error : errors.layers) EXPECT_TRUE(error <= 0.02) << error;
  EXPECT_TRUE(errors.experts[errors.experts.size() * 97 / 100] <= 0.02);
  EXPECT_TRUE(errors.experts.back() <= 0.15) << errors.experts.back();
  EXPECT_TRUE(errors.experts[errors.experts.size() / 2] <= 0.005);
  const int64_t assignments = 48 * 512 * static_cast<int64_t>(model.config().num_experts_per_tok);
  for (const int64_t moves : errors.token_moves) EXPECT_LE(moves, assignments * 2 / 1000);
  EXPECT_TRUE(std::abs(errors.perplexity / kCalibrationPerplexity - 1) <= 1e-3) << errors.perplexity;
}

}  // namespace
}  // namespace nibblecast
