// What is particular to the forward pass on a CUDA device: its results must not depend on how much memory it
// may take, nor change from run to run, and it says the same of damaged weights as the CPU. Values are
// compared with the oracle in forward_oracle_cuda_test.cpp.

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>

#include "cuda_forward.h"
#include "model/families/deepseek_v4/cuda_memory.h"
#include "model/families/deepseek_v4/rows.h"
#include "model/family.h"
#include "random_layer.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::CudaForward;
using testing::expect_error;
using testing::random_layer;
using testing::RandomLayer;

class ForwardCuda : public ::testing::Test {
 protected:
  ForwardCuda() : config_(DeepseekV4Config::parse(preset_config("v4-tiny"), "v4-tiny")) {
    for (uint64_t layer = 0; layer < config_.num_hidden_layers; ++layer)
      layers_.push_back(random_layer(config_, layer, config_.n_routed_experts));
    embedding_ =
        layers_[0].values(Dtype::kBF16, config_.vocab_size * config_.hidden_size, config_.hidden_size);
    head_ = testing::random_head(config_);
  }

  // Rows of these lengths.
  std::vector<std::vector<int32_t>> rows(const std::vector<size_t>& lengths) const {
    std::mt19937 generator(3);
    std::vector<std::vector<int32_t>> rows;
    for (const size_t length : lengths) {
      std::vector<int32_t>& row = rows.emplace_back(length);
      for (int32_t& id : row) id = static_cast<int32_t>(generator() % config_.vocab_size);
    }
    return rows;
  }

  struct Result {
    std::vector<std::byte> streams;
    std::vector<LayerAmax> amax;
    RowLosses losses;
    bool operator==(const Result&) const = default;
  };

  template <class T>
  Result run(const std::vector<std::vector<int32_t>>& rows, uint64_t device_memory) {
    CudaForward<T> forward(config_, rows, device_memory);
    forward.embed(0, config_.vocab_size, embedding_);
    Result result;
    for (uint64_t layer = 0; layer < layers_.size(); ++layer) {
      forward.begin_layer(layer, layers_[layer].dense);
      for (size_t expert = 0; expert < layers_[layer].experts.size(); ++expert)
        forward.expert(expert, layers_[layer].experts[expert]);
      result.amax.push_back(forward.end_layer());
    }
    const auto bytes = std::as_bytes(forward.streams());
    result.streams.assign(bytes.begin(), bytes.end());
    result.losses = testing::run_head(forward, head_, 100'001);
    return result;
  }

  // With streams in host memory and two slots for experts.
  template <class T>
  uint64_t least_memory(const std::vector<std::vector<int32_t>>& rows) const {
    CudaWorkload workload{.rows = rows.size()};
    for (const auto& row : rows) {
      workload.tokens += row.size();
      workload.longest_row = std::max<uint64_t>(workload.longest_row, row.size());
    }
    return cuda_memory<T>(config_, workload, 0, ~uint64_t{0}).least_bytes;
  }

  // The head on both, from the same streams.
  template <class T>
  void compare_heads(const std::vector<std::vector<int32_t>>& rows, uint64_t device_memory,
                     double tolerance) {
    DeepseekV4Forward<T> cpu(config_, rows);
    CudaForward<T> device(config_, rows, device_memory);
    const std::span<T> streams = cpu.resume_at(config_.num_hidden_layers);
    std::mt19937 generator(5);
    std::normal_distribution<float> normal;
    for (T& value : streams) value = from_float<T>(normal(generator));
    device.resume_at(config_.num_hidden_layers, std::as_bytes(streams));
    const RowLosses expected = testing::run_head(cpu, head_, 1 << 30);
    const RowLosses found = testing::run_head(device, head_, 99'991);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t row = 0; row < found.size(); ++row) {
      ASSERT_EQ(found[row].size(), expected[row].size());
      for (size_t i = 0; i < found[row].size(); ++i)
        EXPECT_TRUE(std::abs(found[row][i] - expected[row][i]) <= tolerance) << row << " " << i;
    }
    const double error = perplexity_of(found).value() / perplexity_of(expected).value() - 1;
    EXPECT_TRUE(std::abs(error) <= tolerance) << error;
    std::printf("relative error of the perplexity %.2e\n", error);
  }

  DeepseekV4Config config_;
  std::vector<RandomLayer> layers_;
  std::vector<std::byte> embedding_;
  RandomLayer head_;
};

TEST_F(ForwardCuda, BytesDoNotDependOnMemoryOrRun) {
  SKIP_WITHOUT_CUDA();
  // Several groups of rows, one of them a single long row, rows of one token and of none.
  const auto given = rows({1, 700, 0, 513, 4500, 1200, 3, 2000, 127});
  const Result first = run<bf16>(given, 0);
  EXPECT_TRUE(first == run<bf16>(given, 0));
  EXPECT_TRUE(first == run<bf16>(given, least_memory<bf16>(given)));
  const auto few = rows({5, 300});
  EXPECT_TRUE(run<float>(few, 0) == run<float>(few, least_memory<float>(few)));
}

// A vocabulary of several blocks and a part of one, and more tokens than have logits at once.
TEST_F(ForwardCuda, TheHeadGivesTheLossesOfTheCpu) {
  SKIP_WITHOUT_CUDA();
  config_.vocab_size = 2 * kHeadRows + 37;
  head_ = testing::random_head(config_);
  const auto given = rows({1, 700, 0, 513, kHeadTokens + 1, 2});
  compare_heads<float>(given, 0, 1e-4);
  compare_heads<float>(given, least_memory<float>(given), 1e-4);
  compare_heads<bf16>(given, 0, 2e-2);  // what the head sees is rounded once, after sums of another order
}

TEST_F(ForwardCuda, TheSinkIsGivenTheLogitsOfTheLosses) {
  SKIP_WITHOUT_CUDA();
  const auto given = rows({70, 5});
  CudaForward<float> forward(config_, given);
  const std::vector<float> streams(75 * config_.hc_mult * config_.hidden_size, 0.5f);
  forward.resume_at(config_.num_hidden_layers, std::as_bytes(std::span(streams)));
  std::vector<CrossEntropy> states(75);
  const std::vector<int32_t> targets =
      next_ids(TokenRows(config_.vocab_size, given).rows, TokenRows(config_.vocab_size, given).ids);
  const RowLosses found = testing::run_head(forward, head_, 1 << 20, [&](const LogitsBlock& block) {
    for (size_t i = 0; i < block.tokens; ++i) {
      add_logits_ref(block.values + i * block.stride, block.count, block.first, targets[block.token + i],
                     states[block.token + i]);
    }
  });
  const RowLosses expected = row_losses(TokenRows(config_.vocab_size, given).rows, states);
  for (size_t row = 0; row < found.size(); ++row) {
    for (size_t i = 0; i < found[row].size(); ++i) EXPECT_NEAR(found[row][i], expected[row][i], 1e-5);
  }
}

TEST_F(ForwardCuda, RefusesLessMemoryThanItNeeds) {
  SKIP_WITHOUT_CUDA();
  const auto given = rows({64});
  expect_error(
      ErrorKind::kRefused, [&] { CudaForward<bf16>(config_, given, least_memory<bf16>(given) - 1); },
      "GPU's memory", "--device cpu");
}

// Rows do not see each other: alone or with others, a row's streams are the same bits but for products, whose
// algorithm depends on the number of rows.
TEST_F(ForwardCuda, RowsDoNotSeeEachOther) {
  SKIP_WITHOUT_CUDA();
  const auto both = rows({130, 61});
  CudaForward<float> together(config_, both), alone(config_, {both[1]});
  for (CudaForward<float>* forward : {&together, &alone}) {
    forward->embed(0, config_.vocab_size, embedding_);
    forward->begin_layer(0, layers_[0].dense);
    for (size_t expert = 0; expert < layers_[0].experts.size(); ++expert)
      forward->expert(expert, layers_[0].experts[expert]);
    forward->end_layer();
  }
  const std::span<const float> found = alone.streams();
  const std::span<const float> expected = together.streams().last(found.size());
  // FP32 sums of up to some thousand terms in another order: a few units of 2^-24 times their number's root.
  for (size_t i = 0; i < found.size(); ++i)
    ASSERT_TRUE(std::abs(found[i] - expected[i]) <= 1e-5f * (1 + std::abs(expected[i]))) << i;
}

TEST_F(ForwardCuda, NamesADamagedWeight) {
  SKIP_WITHOUT_CUDA();
  const auto given = rows({40});
  // An E8M0 scale of 255 makes a row of the expert's weight NaN.
  auto scales = std::vector<uint8_t>(std::get<Mxfp4View>(layers_[0].experts[0].w1).scales,
                                     std::get<Mxfp4View>(layers_[0].experts[0].w1).scales +
                                         config_.moe_intermediate_size * config_.hidden_size / 32);
  scales[5] = 255;
  for (StoredExpert& expert : layers_[0].experts) std::get<Mxfp4View>(expert.w1).scales = scales.data();
  expect_error(
      ErrorKind::kBadInput, [&] { run<bf16>(given, 0); }, "layers.0.ffn.experts.", "w2", "not finite");
}

TEST_F(ForwardCuda, NamesADamagedEmbedding) {
  SKIP_WITHOUT_CUDA();
  const auto given = rows({40});
  const bf16 nan{0x7fc0};
  std::memcpy(embedding_.data() + static_cast<size_t>(given[0][7]) * config_.hidden_size * 2, &nan, 2);
  expect_error(
      ErrorKind::kBadInput, [&] { run<bf16>(given, 0); }, "embed.weight");
}

}  // namespace
}  // namespace nibblecast
