// tests/model/decoder_oracle_suite.h - tiny models of families that people quantize against transformers'
// losses and ModelOpt's input scales (shared/models/families). Devices as in decoder_suite.h.
#pragma once

#include <fstream>

#include "decoder_testing.h"

namespace nibblecast {
namespace {

Json json_of(const std::filesystem::path& file) { return Json::parse(std::ifstream(file)); }

testing::Rows rows_of_file(const std::filesystem::path& file) {
  testing::Rows rows;
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);)
    rows.push_back(Json::parse(line).at("input_ids").get<std::vector<int32_t>>());
  return rows;
}

class DecoderOracle : public ::testing::TestWithParam<const char*> {};

template <class T>
void expect_losses(const std::filesystem::path& folder, double tolerance) {
  const testing::DecoderModel model(folder);
  const testing::Rows rows = rows_of_file(folder / "eval.jsonl");
  const Json oracle = json_of(folder / "oracle.json").at("rows");
  const auto pass = make_forward_pass<T>(model.model, rows, forward_device());
  model.run(*pass);
  const RowLosses losses = model.run_head(*pass);
  for (size_t row = 0; row < rows.size(); ++row) {
    const double expected = oracle.at(row).at("nll_sum").template get<double>();
    double sum = 0;
    for (const float loss : losses[row]) sum += double{loss};
    EXPECT_TRUE(std::fabs(sum - expected) <= tolerance * expected)
        << "row " << row << ": " << sum << ", " << expected;
  }
}

TEST_P(DecoderOracle, LossesAreThoseOfTransformers) {
  SKIP_WITHOUT_DEVICE();
  SKIP_WITHOUT_SHARED_MODEL(folder, std::string("families/") + GetParam());
  expect_losses<float>(folder, 1e-5);
}

TEST_P(DecoderOracle, Bf16LossesAreNearThem) {
  SKIP_WITHOUT_DEVICE();
  SKIP_WITHOUT_SHARED_MODEL(folder, std::string("families/") + GetParam());
  expect_losses<bf16>(folder, 0.02);
}

TEST_P(DecoderOracle, LastLogitsAreThoseOfTransformers) {
  SKIP_WITHOUT_DEVICE();
  SKIP_WITHOUT_SHARED_MODEL(folder, std::string("families/") + GetParam());
  const testing::DecoderModel model(folder);
  const testing::Rows rows = rows_of_file(folder / "eval.jsonl");
  const Json oracle = json_of(folder / "oracle.json").at("rows");
  const auto pass = make_forward_pass<float>(model.model, rows, forward_device());
  model.run(*pass);
  size_t token = 0;
  for (const std::vector<int32_t>& row : rows) token += row.size();
  testing::LogitsKeeper logits(token, model.spec().vocab);
  model.run_head(*pass, logits.sink());
  token = 0;
  for (size_t row = 0; row < rows.size(); ++row) {
    token += rows[row].size();
    const std::span<const float> last = logits.rows(token - 1);
    double sum = 0;
    for (const float logit : last) sum += std::exp(double{logit});
    const Json& expected = oracle.at(row).at("last_logprobs_head");
    for (size_t i = 0; i < expected.size(); ++i) {
      const double found = double{last[i]} - std::log(sum);
      EXPECT_TRUE(std::fabs(found - expected.at(i).get<double>()) <= 1e-4)
          << row << ", " << i << ": " << found;
    }
    EXPECT_EQ(std::ranges::max_element(last) - last.begin(), oracle.at(row).at("last_argmax").get<int64_t>());
  }
}

// ModelOpt has one scale for all experts of a layer and projection.
float amax_of(const LayerAmax& amax, const LayerTable& table, const WeightModule& module) {
  const std::vector<float>& values = amax.taps.at(table.tap_of(module)->name);
  return *std::ranges::max_element(values);
}

TEST_P(DecoderOracle, AmaxesAreThoseOfModelOpt) {
  SKIP_WITHOUT_DEVICE();
  SKIP_WITHOUT_SHARED_MODEL(folder, std::string("families/") + GetParam());
  const testing::DecoderModel model(folder);
  const Json exported = json_of(folder / "modelopt-nvfp4.json").at("tensors");
  const auto pass =
      make_forward_pass<float>(model.model, rows_of_file(folder / "calib.jsonl"), forward_device());
  size_t compared = 0;
  for (const LayerAmax& amax : model.run(*pass)) {
    const LayerTable& table = model.model.table.layers[amax.layer];
    for (const WeightModule& module : table.modules) {
      const auto scale = exported.find(module.name + ".input_scale");
      if (scale == exported.end()) continue;
      const double expected = scale->at(3).get<double>() * 6 * 448;
      const double found = double{amax_of(amax, table, module)};
      EXPECT_TRUE(std::fabs(found - expected) <= 1e-4 * expected)
          << module.name << ": " << found << ", " << expected;
      ++compared;
    }
  }
  EXPECT_GE(compared, 7 * model.layers());
}

INSTANTIATE_TEST_SUITE_P(Families, DecoderOracle,
                         ::testing::Values("llama", "qwen2", "qwen3", "qwen3_moe", "mixtral", "glm4_moe",
                                           "deepseek_v3"));

}  // namespace
}  // namespace nibblecast
