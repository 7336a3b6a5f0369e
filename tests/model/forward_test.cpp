// Properties of the forward pass on random weights: what must not matter (threads, other rows), the smallest
// rows, and what it says of damaged weights. Values are compared with the oracle in forward_oracle_test.cpp.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>

#include "base/parallel.h"
#include "model/families/deepseek_v4/forward.h"
#include "model/family.h"
#include "ops/matmul.h"
#include "random_layer.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::random_layer;
using testing::RandomLayer;

DeepseekV4Config tiny() { return DeepseekV4Config::parse(preset_config("v4-tiny"), "v4-tiny"); }

std::vector<int32_t> ids(size_t length, unsigned seed, uint64_t vocabulary) {
  std::mt19937 generator(seed);
  std::vector<int32_t> row(length);
  for (int32_t& id : row) id = static_cast<int32_t>(generator() % vocabulary);
  return row;
}

template <class T>
LayerAmax run_layer(DeepseekV4Forward<T>& forward, uint64_t number, const StoredTensors& dense,
                    const std::vector<StoredExpert>& experts) {
  forward.begin_layer(number, dense);
  for (size_t expert = 0; expert < experts.size(); ++expert) forward.expert(expert, experts[expert]);
  return forward.end_layer();
}

template <class T>
struct Result {
  std::vector<T> streams;
  std::vector<LayerAmax> amax;
};

class ForwardTest : public ::testing::Test {
 protected:
  ForwardTest() : config_(tiny()) {
    for (uint64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
      layers_.push_back(random_layer(config_, layer, config_.n_routed_experts));
    }
    embedding_ =
        layers_[0].values(Dtype::kBF16, config_.vocab_size * config_.hidden_size, config_.hidden_size);
  }

  template <class T>
  Result<T> run(const std::vector<std::vector<int32_t>>& rows) {
    DeepseekV4Forward<T> forward(config_, rows);
    forward.embed(0, config_.vocab_size, embedding_);
    Result<T> result;
    for (uint64_t layer = 0; layer < layers_.size(); ++layer) {
      result.amax.push_back(run_layer(forward, layer, layers_[layer].dense, layers_[layer].experts));
    }
    result.streams.assign(forward.streams().begin(), forward.streams().end());
    return result;
  }
  size_t stride() const { return config_.hc_mult * config_.hidden_size; }

  DeepseekV4Config config_;
  std::vector<RandomLayer> layers_;
  std::vector<std::byte> embedding_;
};

template <class T>
void expect_same_bits(std::span<const T> found, std::span<const T> expected) {
  ASSERT_EQ(found.size(), expected.size());
  EXPECT_EQ(std::memcmp(found.data(), expected.data(), found.size_bytes()), 0);
}

void expect_equal(const LayerAmax& found, const LayerAmax& expected) {
  EXPECT_EQ(found.taps, expected.taps);
  EXPECT_EQ(found.tokens, expected.tokens);
}

// FP8 in tiles with F32 scales, random powers of two or not.
StoredLinear fp8_linear(RandomLayer& layer, uint64_t rows, uint64_t cols, bool powers_of_two) {
  std::vector<std::byte> codes = layer.random_bytes(rows * cols);
  for (std::byte& code : codes) {
    if ((code & std::byte{0x7f}) == std::byte{0x7f}) code = std::byte{0};  // NaN
  }
  std::vector<std::byte> scales((rows + 127) / 128 * ((cols + 127) / 128) * sizeof(float));
  for (size_t at = 0; at < scales.size(); at += sizeof(float)) {
    const float noise = 1 + static_cast<float>(layer.generator() % 1000) / 1000;
    const float scale = powers_of_two ? 0x1p-11f : 0x1p-11f * noise;
    std::memcpy(scales.data() + at, &scale, sizeof scale);
  }
  const auto kept = layer.keep(std::move(codes)), kept_scales = layer.keep(std::move(scales));
  return Fp8BlockView{.codes = reinterpret_cast<const uint8_t*>(kept.data()),
                      .scales = reinterpret_cast<const uint8_t*>(kept_scales.data()),
                      .scale_type = ScaleType::kF32,
                      .rows = rows,
                      .cols = cols,
                      .tile_rows = 128,
                      .tile_cols = 128};
}

// The same values, stored as they are.
template <class T, class View>
StoredLinear plain_linear(RandomLayer& layer, const StoredLinear& linear) {
  std::vector<T> values(rows_of(linear) * cols_of(linear));
  dequantize_rows_ref(linear, 0, rows_of(linear), values.data(), cols_of(linear));
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return View{layer.keep(std::move(bytes)).data(), rows_of(linear), cols_of(linear)};
}

// Base checkpoints: FP8 experts give what their values give in any other format.
TEST_F(ForwardTest, TheStoredFormatOfExpertsDoesNotMatter) {
  const std::vector<std::vector<int32_t>> rows = {ids(70, 1, config_.vocab_size)};
  const auto for_each_linear = [&](const auto& f) {
    for (RandomLayer& layer : layers_) {
      for (StoredExpert& expert : layer.experts) {
        for (StoredLinear* linear : {&expert.w1, &expert.w2, &expert.w3}) *linear = f(layer, *linear);
      }
    }
  };
  const auto expect_same = [&](const Result<float>& precise, const Result<bf16>& fast) {
    const Result<float> found = run<float>(rows);
    expect_same_bits<float>(found.streams, precise.streams);
    expect_same_bits<bf16>(run<bf16>(rows).streams, fast.streams);
    for (size_t layer = 0; layer < layers_.size(); ++layer)
      expect_equal(found.amax[layer], precise.amax[layer]);
  };
  for (const bool powers_of_two : {true, false}) {
    for_each_linear([&](RandomLayer& layer, const StoredLinear& linear) {
      return fp8_linear(layer, rows_of(linear), cols_of(linear), powers_of_two);
    });
    const Result<float> precise = run<float>(rows);
    const Result<bf16> fast = run<bf16>(rows);
    for_each_linear(plain_linear<float, F32View>);
    expect_same(precise, fast);
    if (!powers_of_two) continue;  // BF16 would round them
    for_each_linear(plain_linear<bf16, Bf16View>);
    expect_same(precise, fast);
  }
}

TEST_F(ForwardTest, PresetHasLayersOfAllKinds) {
  for (const uint32_t ratio : {0u, 4u, 128u}) {
    EXPECT_NE(std::count(config_.compress_ratios.begin(), config_.compress_ratios.end(), ratio), 0) << ratio;
  }
}

TEST_F(ForwardTest, ThreadsDoNotMatter) {
  const std::vector<std::vector<int32_t>> rows = {ids(333, 1, config_.vocab_size),
                                                  ids(40, 2, config_.vocab_size)};
  std::vector<Result<bf16>> bf16_results;
  std::vector<Result<float>> float_results;
  for (const size_t threads : {1, 2, 5}) {
    const ThreadLimit limit(threads);
    bf16_results.push_back(run<bf16>(rows));
    float_results.push_back(run<float>(rows));
    expect_same_bits<bf16>(bf16_results.back().streams, bf16_results[0].streams);
    expect_same_bits<float>(float_results.back().streams, float_results[0].streams);
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      expect_equal(bf16_results.back().amax[layer], bf16_results[0].amax[layer]);
      expect_equal(float_results.back().amax[layer], float_results[0].amax[layer]);
    }
  }
}

// A token's result depends on its own row alone, to the bit, though experts take tokens of all rows in
// blocks.
TEST_F(ForwardTest, OtherRowsDoNotMatter) {
  if (!rows_stand_alone<bf16>()) GTEST_SKIP() << "on this CPU they may, in a last bit (ops/matmul.h)";
  std::vector<std::vector<int32_t>> rows;
  for (const size_t length : {1, 300, 3, 129, 17, 700}) {
    rows.push_back(ids(length, static_cast<unsigned>(length), config_.vocab_size));
  }
  const Result<bf16> together = run<bf16>(rows);
  size_t begin = 0;
  for (const std::vector<int32_t>& row : rows) {
    const Result<bf16> alone = run<bf16>({row});
    expect_same_bits<bf16>(std::span(together.streams).subspan(begin * stride(), row.size() * stride()),
                           alone.streams);
    begin += row.size();
  }
}

// Later tokens cannot reach back: the beginning of a row is what it is in the whole row.
TEST_F(ForwardTest, LaterTokensDoNotMatter) {
  const std::vector<int32_t> row = ids(400, 3, config_.vocab_size);
  const Result<float> whole = run<float>({row});
  for (const size_t length : {1, 2, 5, 63, 130}) {
    const Result<float> part = run<float>({{row.begin(), row.begin() + static_cast<ptrdiff_t>(length)}});
    double worst = 0;
    for (size_t i = 0; i < part.streams.size(); ++i) {
      worst = std::max(worst, std::abs(double{part.streams[i]} - double{whole.streams[i]}));
    }
    // Blocks of queries have other sizes, and with them products other orders of summation.
    EXPECT_TRUE(worst <= 1e-4) << length << ": " << worst;
  }
}

TEST_F(ForwardTest, RowsLongerThanAGroupOfTokensWork) {
  const std::vector<int32_t> row = ids(2500, 4, config_.vocab_size);
  const Result<bf16> whole = run<bf16>({row, ids(10, 5, config_.vocab_size)});
  const Result<bf16> alone = run<bf16>({row});
  expect_same_bits<bf16>(std::span(whole.streams).first(2500 * stride()), alone.streams);
}

TEST_F(ForwardTest, EmptyRowsAreNothing) {
  const std::vector<int32_t> row = ids(20, 6, config_.vocab_size);
  expect_same_bits<bf16>(run<bf16>({{}, row, {}}).streams, run<bf16>({row}).streams);
  EXPECT_TRUE(run<bf16>({}).streams.empty());
}

TEST_F(ForwardTest, RecordsEveryTap) {
  const Result<float> result = run<float>({ids(50, 7, config_.vocab_size)});
  const size_t experts = config_.n_routed_experts;
  const std::map<std::string, size_t> expected = {{"attn.in", 1},
                                                  {"attn.q_rank", 1},
                                                  {"attn.out", 1},
                                                  {"attn.out_rank", 1},
                                                  {"ffn.in", 1},
                                                  {"shared.mid", 1},
                                                  {"experts.in", experts},
                                                  {"experts.mid", experts},
                                                  {"experts.mid_weighted", experts}};
  for (const LayerAmax& amax : result.amax) {
    std::map<std::string, size_t> found;
    for (const auto& [tap, values] : amax.taps) {
      found[tap] = values.size();
      EXPECT_GT(*std::ranges::max_element(values), 0) << tap;
    }
    EXPECT_EQ(found, expected);
    int64_t tokens = 0;
    for (const int64_t count : amax.tokens) tokens += count;
    EXPECT_EQ(tokens, 50 * static_cast<int64_t>(config_.num_experts_per_tok));
  }
}

TEST_F(ForwardTest, AStarvedExpertRecordsZero) {
  const Result<bf16> result = run<bf16>({{5}});
  for (const LayerAmax& amax : result.amax) {
    for (size_t expert = 0; expert < config_.n_routed_experts; ++expert) {
      EXPECT_EQ(amax.tokens[expert] > 0, amax.taps.at("experts.in")[expert] > 0);
      EXPECT_EQ(amax.tokens[expert] > 0, amax.taps.at("experts.mid")[expert] > 0);
    }
  }
}

TEST_F(ForwardTest, TokenIdsAreChecked) {
  const int32_t end = static_cast<int32_t>(config_.vocab_size);
  expect_error(
      ErrorKind::kBadInput,
      [&] {
        DeepseekV4Forward<float>(config_, {{0, end}});
      },
      "token id", std::to_string(end));
  expect_error(
      ErrorKind::kBadInput, [&] { DeepseekV4Forward<float>(config_, {{-1}}); }, "token id");
}

// One damaged tensor after the other: the error names where the damage shows.
TEST_F(ForwardTest, DamagedWeightsAreNamed) {
  const auto run_damaged = [&](const std::string& name, const auto& damage) {
    DeepseekV4Forward<bf16> forward(config_, {ids(40, 8, config_.vocab_size)});
    forward.embed(0, config_.vocab_size, embedding_);
    StoredTensors dense = layers_[0].dense;
    std::vector<std::byte> bytes(dense.at(name).bytes.begin(), dense.at(name).bytes.end());
    damage(dense.at(name), bytes);
    dense.at(name).bytes = bytes;
    run_layer(forward, 0, dense, layers_[0].experts);
  };
  const auto nan = [](StoredTensor&, std::vector<std::byte>& bytes) {
    std::fill_n(bytes.end() - 4, 4, std::byte{0xff});
  };
  const auto cut = [](StoredTensor&, std::vector<std::byte>& bytes) { bytes.pop_back(); };
  const auto reshape = [](StoredTensor& tensor, std::vector<std::byte>&) { tensor.shape[0] += 1; };
  const auto retype = [](StoredTensor& tensor, std::vector<std::byte>&) { tensor.dtype = Dtype::kU8; };
  const std::string prefix = "layers.0.";
  for (const char* name :
       {"attn_norm.weight", "attn.wq_a.weight", "attn.wq_b.scale", "attn.attn_sink", "attn.wo_a.weight",
        "attn.wo_b.weight", "hc_attn_fn", "hc_ffn_base", "ffn_norm.weight"}) {
    expect_error(
        ErrorKind::kBadInput, [&] { run_damaged(prefix + name, nan); }, "layers.0.", "finite");
  }
  for (const char* name :
       {"attn.wq_a.weight", "attn.wq_a.scale", "attn.kv_norm.weight", "ffn.gate.tid2eid", "hc_attn_scale"}) {
    expect_error(
        ErrorKind::kBadInput, [&] { run_damaged(prefix + name, cut); }, name, "expected");
  }
  for (const char* name : {"attn.kv_norm.weight", "ffn.gate.tid2eid", "hc_attn_scale"}) {
    expect_error(
        ErrorKind::kBadInput, [&] { run_damaged(prefix + name, reshape); }, name, "expected");
    expect_error(
        ErrorKind::kBadInput, [&] { run_damaged(prefix + name, retype); }, name, "expected");
  }
  // Of a weight and its scale that do not fit together, the scale is named.
  for (const char* name : {"attn.wq_a.weight", "attn.wq_a.scale"}) {
    expect_error(
        ErrorKind::kBadInput, [&] { run_damaged(prefix + name, reshape); }, "attn.wq_a.scale", "expected");
  }
  expect_error(
      ErrorKind::kBadInput, [&] { run_damaged(prefix + "attn.wq_a.weight", retype); }, "attn.wq_a.scale",
      "expected");
  expect_error(
      ErrorKind::kUnsupported, [&] { run_damaged(prefix + "attn.wq_a.scale", retype); }, "attn.wq_a.scale",
      "expected");
  const auto beyond = [](StoredTensor&, std::vector<std::byte>& bytes) {
    std::fill(bytes.begin(), bytes.end(), std::byte{1});
  };
  expect_error(
      ErrorKind::kBadInput, [&] { run_damaged(prefix + "ffn.gate.tid2eid", beyond); }, "tid2eid", "expert");
}

TEST_F(ForwardTest, ADamagedExpertIsNamed) {
  DeepseekV4Forward<bf16> forward(config_, {ids(64, 9, config_.vocab_size)});
  forward.embed(0, config_.vocab_size, embedding_);
  forward.begin_layer(0, layers_[0].dense);
  const std::vector<uint8_t> scales(config_.moe_intermediate_size * config_.hidden_size / 32, 255);
  StoredExpert damaged = layers_[0].experts[0];
  auto& w3 = std::get<Mxfp4View>(damaged.w3);
  w3.scales = scales.data();
  expect_error(
      ErrorKind::kBadInput, [&] { forward.expert(0, damaged); }, "layers.0.ffn.experts.0.w2", "NaN");
  w3.rows -= 1;
  expect_error(
      ErrorKind::kBadInput, [&] { forward.expert(0, damaged); }, "layers.0.ffn.experts.0.w3", "expected");
}

// More of the vocabulary than is there at once, and rows that predict nothing.
class HeadTest : public ::testing::Test {
 protected:
  HeadTest() : config_(with_vocabulary(2 * kHeadRows + 37)), head_(testing::random_head(config_)) {
    for (const size_t length : {3u, 1u, 0u, 130u, 2u}) rows_.push_back(ids(length, 7, config_.vocab_size));
  }
  static DeepseekV4Config with_vocabulary(uint64_t size) {
    DeepseekV4Config config = tiny();
    config.vocab_size = size;
    return config;
  }

  template <class T>
  RowLosses losses(size_t piece, LogitsSink sink = {}) const {
    DeepseekV4Forward<T> forward(config_, rows_);
    RandomLayer random;
    const std::span<T> streams = forward.resume_at(config_.num_hidden_layers);
    const std::vector<std::byte> values = random.values(Dtype::kF32, streams.size(), 4);
    for (size_t i = 0; i < streams.size(); ++i) {
      float value = 0;
      std::memcpy(&value, values.data() + i * 4, 4);
      streams[i] = from_float<T>(value);
    }
    return testing::run_head(forward, head_, piece, std::move(sink));
  }

  DeepseekV4Config config_;
  RandomLayer head_;
  std::vector<std::vector<int32_t>> rows_;
};

TEST_F(HeadTest, LossesDoNotDependOnHowBytesAreCutOrOnThreads) {
  const RowLosses expected = losses<bf16>(1 << 30);
  EXPECT_EQ(losses<bf16>(1), expected);
  EXPECT_EQ(losses<bf16>(kHeadRows * config_.hidden_size * 2 - 1), expected);
  const ThreadLimit one(1);
  EXPECT_EQ(losses<bf16>(99'991), expected);
}

TEST_F(HeadTest, LossesAreThoseOfTheLogits) {
  const size_t vocabulary = config_.vocab_size;
  std::vector<float> logits(136 * vocabulary);
  const RowLosses found = losses<float>(1 << 20, [&](const LogitsBlock& block) {
    for (size_t i = 0; i < block.tokens; ++i) {
      std::copy_n(block.values + i * block.stride, block.count,
                  logits.data() + (block.token + i) * vocabulary + block.first);
    }
  });
  ASSERT_EQ(found.size(), rows_.size());
  size_t token = 0;
  for (size_t row = 0; row < rows_.size(); token += rows_[row].size(), ++row) {
    ASSERT_EQ(found[row].size(), rows_[row].empty() ? 0 : rows_[row].size() - 1);
    for (size_t i = 0; i < found[row].size(); ++i) {
      const float* const own = logits.data() + (token + i) * vocabulary;
      double sum = 0;
      for (size_t j = 0; j < vocabulary; ++j) sum += std::exp(double{own[j]});
      const double expected = std::log(sum) - double{own[rows_[row][i + 1]]};
      EXPECT_TRUE(std::abs(found[row][i] - expected) <= 1e-5) << row << " " << i;
    }
  }
}

TEST_F(HeadTest, PerplexityIsOfPredictedTokens) {
  const Perplexity perplexity = perplexity_of(losses<float>(1 << 20));
  EXPECT_EQ(perplexity.tokens, 2u + 129 + 1);
  EXPECT_GT(perplexity.value(), 1);
  EXPECT_TRUE(std::isnan(Perplexity{}.value()));
  rows_ = {{5}, {}};
  EXPECT_EQ(perplexity_of(losses<float>(1 << 20)).tokens, 0u);
}

TEST_F(HeadTest, ADamagedWeightOfTheHeadIsSeen) {
  std::vector<std::byte> bytes(head_.dense.at(kHeadWeight).bytes.begin(),
                               head_.dense.at(kHeadWeight).bytes.end());
  const bf16 nan{0x7fc0};
  std::memcpy(bytes.data() + bytes.size() / 2, &nan, 2);
  head_.dense.at(kHeadWeight).bytes = head_.keep(std::move(bytes));
  EXPECT_TRUE(std::isnan(perplexity_of(losses<bf16>(1 << 20)).value()));
}

}  // namespace
}  // namespace nibblecast
