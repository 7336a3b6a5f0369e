// tests/model/decoder_oracle_suite.h - tiny models of families that people quantize against transformers'
// losses and ModelOpt's input scales (shared/models/families; tests/model/golden, which
// tools/make_hybrid_models.py makes). Devices as in decoder_suite.h.
#pragma once

#include <fstream>
#include <functional>
#include <map>

#include "decoder_testing.h"
#include "family_models.h"

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

double loss_of(std::span<const float> losses) {
  double sum = 0;
  for (const float loss : losses) sum += double{loss};
  return sum;
}

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
    const double sum = loss_of(losses[row]);
    EXPECT_TRUE(std::fabs(sum - expected) <= tolerance * expected)
        << "row " << row << ": " << sum << ", " << expected;
  }
}

TEST_P(DecoderOracle, LossesAreThoseOfTransformers) {
  SKIP_WITHOUT_DEVICE();
  SKIP_WITHOUT_FAMILY_MODEL(folder, GetParam());
  expect_losses<float>(folder, 1e-5);
}

TEST_P(DecoderOracle, Bf16LossesAreNearThem) {
  SKIP_WITHOUT_DEVICE();
  SKIP_WITHOUT_FAMILY_MODEL(folder, GetParam());
  expect_losses<bf16>(folder, 0.02);
}

TEST_P(DecoderOracle, LastLogitsAreThoseOfTransformers) {
  SKIP_WITHOUT_DEVICE();
  SKIP_WITHOUT_FAMILY_MODEL(folder, GetParam());
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
  SKIP_WITHOUT_FAMILY_MODEL(folder, GetParam());
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
  EXPECT_GE(compared, 6 * model.layers());
}

INSTANTIATE_TEST_SUITE_P(Families, DecoderOracle,
                         ::testing::Values("llama", "qwen2", "qwen3", "qwen3_moe", "mixtral", "glm4_moe",
                                           "deepseek_v3"));
INSTANTIATE_TEST_SUITE_P(Hybrids, DecoderOracle, ::testing::Values("qwen3_next", "qwen3_5", "qwen3_5_moe"));

// ---- each step of a hybrid counts ----

class HybridOracle : public ::testing::TestWithParam<const char*> {
 protected:
  using Change = std::function<void(testing::DecoderModel&)>;

  // The largest relative difference of a row's losses that a change makes.
  static double effect(const std::filesystem::path& folder, const Change& change) {
    testing::DecoderModel model(folder);
    const testing::Rows rows = rows_of_file(folder / "eval.jsonl");
    const Json oracle = json_of(folder / "oracle.json").at("rows");
    change(model);
    const auto pass = make_forward_pass<float>(model.model, rows, forward_device());
    model.run(*pass);
    const RowLosses losses = model.run_head(*pass);
    double largest = 0;
    for (size_t row = 0; row < rows.size(); ++row) {
      const double expected = oracle.at(row).at("nll_sum").get<double>();
      largest = std::max(largest, std::fabs(loss_of(losses[row]) / expected - 1));
    }
    return largest;
  }

  static DecoderSpec& spec_of(testing::DecoderModel& model) {
    return std::get<DecoderSpec>(model.model.spec);
  }
  static GqaSpec& attention_of(testing::DecoderModel& model) {
    return std::get<GqaSpec>(spec_of(model).layers.back().mixer);
  }
  // A tensor of the first layer, a delta net.
  static std::string name_of(const testing::DecoderModel& model, Role role) {
    const LayerTable& table = model.model.table.layers[0];
    if (const PlainTensor* plain = table.find_plain(role)) return plain->name;
    return testing::DecoderModel::module(table, {.role = role}) + ".weight";
  }
  static std::string last_layer(const testing::DecoderModel& model, Role role) {
    return testing::DecoderModel::module(model.model.table.layers.back(), {.role = role}) + ".weight";
  }

  // By name: what is switched off.
  static std::map<std::string, Change> changes() {
    using testing::DecoderModel;
    std::map<std::string, Change> changes;
    changes["norms of 1 + weight"] = [](DecoderModel& model) {
      spec_of(model).norm.use = NormWeight::kTimes;
    };
    changes["RoPE"] = [](DecoderModel& model) { attention_of(model).rope.dims = 0; };
    changes["partial RoPE"] = [](DecoderModel& model) { attention_of(model).rope.dims *= 2; };
    changes["norms of heads"] = [](DecoderModel& model) {
      attention_of(model).head_norms = HeadNorms::kNone;
    };
    changes["output gate"] = [](DecoderModel& model) {
      const GqaSpec& gqa = attention_of(model);
      const size_t half = gqa.width * spec_of(model).hidden;
      for (size_t head = 0; head < gqa.heads; ++head)
        model.fill(last_layer(model, Role::kQ), 0, (2 * head + 1) * half, half);
    };
    changes["decay"] = [](DecoderModel& model) { model.fill(name_of(model, Role::kDecayLog), -30); };
    changes["step bias"] = [](DecoderModel& model) { model.fill(name_of(model, Role::kStepBias), 0); };
    changes["norm of the output"] = [](DecoderModel& model) {
      model.fill(name_of(model, Role::kOutNorm), 1);
    };
    changes["convolution"] = [](DecoderModel& model) {  // of the token alone
      const DeltaNetShape& shape = std::get<DeltaNetSpec>(spec_of(model).layers[0].mixer).shape;
      for (size_t channel = 0; channel < shape.channels(); ++channel)
        model.fill(name_of(model, Role::kFilter), 0, channel * shape.taps, shape.taps - 1);
    };
    return changes;
  }
};

TEST_P(HybridOracle, EveryStepCounts) {
  SKIP_WITHOUT_DEVICE();
  SKIP_WITHOUT_FAMILY_MODEL(folder, GetParam());
  std::map<std::string, Change> all = changes();
  if (std::holds_alternative<MoeSpec>(testing::DecoderModel(folder).spec().layers[0].ffn)) {
    const auto moe = [](testing::DecoderModel& model) -> MoeSpec& {
      return std::get<MoeSpec>(spec_of(model).layers[0].ffn);
    };
    all["renormalized weights"] = [=](auto& model) { moe(model).router.renormalize = false; };
    all["gate of the shared expert"] = [=](auto& model) { moe(model).shared_gate = false; };
  }
  if (std::get<DeltaNetSpec>(testing::DecoderModel(folder).spec().layers[0].mixer).input ==
      DeltaNetInput::kSplit) {
    all["beta"] = [](auto& model) { model.fill(name_of(model, Role::kDeltaB), 0); };
    all["gate of the delta net"] = [](auto& model) { model.fill(name_of(model, Role::kDeltaZ), 0.01f); };
  }
  EXPECT_LE(effect(folder, [](auto&) {}), 1e-5);
  for (const auto& [name, change] : all) EXPECT_GE(effect(folder, change), 1e-4) << name;
}

INSTANTIATE_TEST_SUITE_P(Hybrids, HybridOracle, ::testing::Values("qwen3_next", "qwen3_5", "qwen3_5_moe"));

}  // namespace
}  // namespace nibblecast
