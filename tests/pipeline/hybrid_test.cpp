// Tiny Qwen3-Next and Qwen3.5 checkpoints (tests/model/golden) through the whole pipeline: what is made of
// them is what ModelOpt makes, stacked experts too, and what is not text passes through.
#include <fstream>

#include "family_models.h"
#include "pipeline/verify.h"
#include "sha256.h"
#include "stored_checkpoint.h"

namespace nibblecast {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::plain_amax;
using testing::run_job;
using testing::Sha256;
using testing::small_buffers;
using testing::StoredTensor;
using testing::TemporaryFolder;
using testing::tensor_bytes;
using testing::write_checkpoint;

QuantizeOptions options_of(const std::string& recipe) {
  QuantizeOptions options;
  options.recipe = recipe;
  options.weight_method = RecipeMethod::kMax;
  options.compute_dtype = ComputeDtype::kF32;
  options.w2_input = W2Input::kUnweighted;
  options.engines = {};
  return options;
}

CalibrationRows rows_of(const fs::path& file) {
  CalibrationRows rows;
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);)
    rows.ids.push_back(Json::parse(line).at("input_ids").get<std::vector<int32_t>>());
  return rows;
}

float scalar(const Checkpoint& checkpoint, const std::string& name) {
  float value = 0;
  const std::string bytes = tensor_bytes(checkpoint, name);
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

class Hybrid : public ::testing::TestWithParam<const char*> {
 protected:
  fs::path model() const { return testing::family_model(GetParam()); }
  static Checkpoint open(const fs::path& folder) { return Checkpoint::open(folder, system_files()); }
  fs::path out() const { return folder_.path() / "out"; }

  // Calibrated on the golden's rows.
  void quantize(const std::string& recipe, const fs::path& to, const RunOptions& run = small_buffers()) {
    const Checkpoint source = open(model());
    const Plan plan = make_plan(source, options_of(recipe));
    Activations activations = Activations::from_rows(rows_of(model() / "calib.jsonl"), "calib.jsonl");
    run_job(source, plan, activations, to, run);
  }

  const TemporaryFolder folder_;
};

TEST_P(Hybrid, WeightsAndScalesAreModelOpts) {
  quantize("nvfp4", out());
  const Checkpoint made = open(out()), source = open(model());
  const Json golden = Json::parse(std::ifstream(model() / "modelopt-nvfp4.json")).at("tensors");
  size_t weights = 0;
  for (const auto& [name, entry] : golden.items()) {
    const Tensor* tensor = made.find(name);
    ASSERT_NE(tensor, nullptr) << name;
    if (entry.size() == 2) {
      EXPECT_EQ(tensor_bytes(made, name), tensor_bytes(source, name)) << name;
    } else if (name.ends_with(".input_scale")) {
      const float expected = entry[3].get<float>();
      EXPECT_LE(std::abs(scalar(made, name) - expected), 1e-4f * expected) << name;
    } else {
      EXPECT_EQ(tensor->shape, entry[1].get<Shape>()) << name;
      const std::string bytes = tensor_bytes(made, name);
      EXPECT_EQ(Sha256::hex(std::as_bytes(std::span(bytes))), entry[2].get<std::string>()) << name;
      weights += tensor->dtype == Dtype::kU8;
    }
  }
  EXPECT_GE(weights, 12u);
  for (const Tensor& tensor : made.tensors()) EXPECT_TRUE(golden.contains(tensor.name)) << tensor.name;
  const VerifyReport report = verify(source, out(), system_files(), {.engines = std::set<Engine>()});
  EXPECT_EQ(report.problems, std::vector<std::string>());
}

TEST_P(Hybrid, MemoryChangesNothing) {
  quantize("nvfp4", out());
  quantize("nvfp4", folder_.path() / "other", small_buffers(1 << 20));
  EXPECT_EQ(testing::folder_hashes(out()), testing::folder_hashes(folder_.path() / "other"));
}

// As the documents say it.
TEST_P(Hybrid, WhatIsNoTextIsExcluded) {
  quantize("nvfp4_mlp_only", out());
  const Json excluded = open(out()).config().at("quantization_config").at("ignore");
  const auto has = [&](const std::string& name) {
    return std::ranges::find(excluded, Json(name)) != excluded.end();
  };
  const std::string prefix = std::string(GetParam()) == "qwen3_next" ? "model." : "model.language_model.";
  EXPECT_TRUE(has("mtp.*"));
  EXPECT_TRUE(has(prefix + "layers.0.linear_attn.conv1d"));
  EXPECT_TRUE(has(prefix + "layers.0.linear_attn.out_proj"));
  EXPECT_EQ(has("model.visual.*"), std::string(GetParam()) != "qwen3_next");
  EXPECT_EQ(has(prefix + "layers.0.mlp.shared_expert_gate"), std::string(GetParam()) != "qwen3_5");
  EXPECT_FALSE(has(prefix + "layers.0.mlp.gate_proj"));
}

INSTANTIATE_TEST_SUITE_P(Families, Hybrid, ::testing::Values("qwen3_next", "qwen3_5", "qwen3_5_moe"));

// ---- stacks ----

constexpr const char* kStacked = "qwen3_5_moe";
const std::string kExperts = "model.language_model.layers.0.mlp.experts.";

// The golden with another tensor in place of one, or beside it.
void write_changed(const fs::path& to, const StoredTensor& change) {
  const fs::path golden = testing::family_model(kStacked);
  const Checkpoint source = Checkpoint::open(golden, system_files());
  std::vector<StoredTensor> stored;
  for (const Tensor& tensor : source.tensors())
    if (tensor.name != change.name)
      stored.push_back({tensor.name, tensor.dtype, tensor.shape, tensor_bytes(source, tensor.name)});
  stored.push_back(change);
  write_checkpoint(to, std::move(stored), source.config());
}

// Experts that a recipe keeps are written one by one, too.
TEST(StackedExperts, KeptOnesAreTheirSlices) {
  const Checkpoint source = Checkpoint::open(testing::family_model(kStacked), system_files());
  QuantizeOptions options = options_of("keep-experts.yaml");
  options.recipe_text = "rules:\n  - modules: '*.self_attn.*_proj'\n    format: nvfp4\n";
  const Plan plan = make_plan(source, options);
  const TemporaryFolder folder;
  run_job(source, plan, {.rows = {}, .amax = plain_amax(plan), .origin = "test", .identity = "a"},
          folder.path() / "out");
  const Checkpoint made = Checkpoint::open(folder.path() / "out", system_files());
  EXPECT_EQ(made.find(kExperts + "gate_up_proj"), nullptr);
  std::string gate_up, down;
  for (int expert = 0; expert < 4; ++expert) {
    const std::string name = kExperts + std::to_string(expert) + ".";
    EXPECT_EQ(made.at(name + "up_proj.weight").shape, (Shape{16, 32}));
    gate_up += tensor_bytes(made, name + "gate_proj.weight") + tensor_bytes(made, name + "up_proj.weight");
    down += tensor_bytes(made, name + "down_proj.weight");
  }
  EXPECT_EQ(gate_up, tensor_bytes(source, kExperts + "gate_up_proj"));
  EXPECT_EQ(down, tensor_bytes(source, kExperts + "down_proj"));
  const auto report = verify(source, folder.path() / "out", system_files(), {.engines = std::set<Engine>()});
  EXPECT_EQ(report.problems, std::vector<std::string>());
}

TEST(StackedExperts, WhatDoesNotFitIsRefused) {
  const TemporaryFolder folder;
  const auto refuse = [&](const StoredTensor& change, ErrorKind kind, auto... parts) {
    write_changed(folder.path(), change);
    const Checkpoint source = Checkpoint::open(folder.path(), system_files());
    expect_error(
        kind, [&] { make_plan(source, options_of("nvfp4")); }, change.name, parts...);
  };
  refuse({kExperts + "gate_up_proj", Dtype::kBF16, {4, 16, 32}}, ErrorKind::kBadInput, "[4, 32, 32]",
         "[4, 16, 32]");
  refuse({kExperts + "down_proj", Dtype::kBF16, {3, 32, 16}}, ErrorKind::kBadInput, "[4, 32, 16]");
  refuse({kExperts + "down_proj", Dtype::kF8E4M3, {4, 32, 16}}, ErrorKind::kUnsupported, "BF16, F16 or F32");
  write_changed(folder.path(), {kExperts + "2.up_proj.weight", Dtype::kBF16, {16, 32}});
  const Checkpoint twice = Checkpoint::open(folder.path(), system_files());
  expect_error(
      ErrorKind::kBadInput, [&] { make_plan(twice, options_of("nvfp4")); }, "experts.2.up_proj.weight",
      "twice");
}

}  // namespace
}  // namespace nibblecast
