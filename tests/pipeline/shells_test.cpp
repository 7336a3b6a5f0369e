// Text models within others, whose tensors lie under language_model.: the text is quantized as it is by
// itself, and what lies beside it passes through.
#include <gtest/gtest.h>

#include "model/forward_checks.h"
#include "stored_checkpoint.h"

namespace nibblecast {
namespace {

using testing::tensor_bytes;

struct Shell {
  std::string name, preset, text_type;  // of model_types
  std::string architecture;
};
void PrintTo(const Shell& shell, std::ostream* out) { *out << shell.name << " " << shell.text_type; }

class Shells : public ::testing::TestWithParam<Shell> {
 protected:
  Shells() {
    Json text = preset_config(GetParam().preset);
    if (GetParam().text_type.find("istral") != std::string::npos) text = mistral();
    text["model_type"] = GetParam().name == "kimi_k25" ? "deepseek_v3" : "mistral";
    synthesize(text, "text", {}, path("text"), system_files());
    const Checkpoint source = Checkpoint::open(path("text"), system_files());
    std::vector<testing::StoredTensor> stored = {
        {"vision_tower.blocks.0.fc0.weight", Dtype::kBF16, {32, 16}, ""},
        {kProjector, Dtype::kBF16, {16, 32}, ""}};
    for (const Tensor& tensor : source.tensors())
      stored.push_back(
          {"language_model." + tensor.name, tensor.dtype, tensor.shape, tensor_bytes(source, tensor.name)});
    text["model_type"] = GetParam().text_type;
    const Json config = {{"architectures", {GetParam().architecture}},
                         {"model_type", GetParam().name},
                         {"text_config", text},
                         {"vision_config", {{"hidden_size", 16}}}};
    testing::write_checkpoint(path("shell"), stored, config);
  }

  static Json mistral() {
    Json config = preset_config("qwen3-tiny");
    config["tie_word_embeddings"] = false;
    config["sliding_window"] = nullptr;
    config.erase("use_sliding_window"), config.erase("layer_types");
    config["architectures"] = {"MistralForCausalLM"};
    return config;
  }

  Plan quantize(const std::string& name) {
    const Checkpoint source = Checkpoint::open(path(name), system_files());
    QuantizeOptions options;
    options.recipe = "nvfp4_mlp_only";
    const Plan plan = make_plan(source, options);
    EXPECT_FALSE(plan.refused());
    const Activations rows{.rows = testing::tiny_rows(plan.model->vocabulary.size),
                           .amax = {},
                           .origin = "rows",
                           .identity = "rows"};
    testing::run_job(source, plan, rows, path(name + "-out"));
    return plan;
  }
  std::filesystem::path path(const std::string& name) const { return folder_.path() / name; }

  static constexpr const char* kProjector = "mm_projector.proj.weight";

 private:
  testing::TemporaryFolder folder_;
};

TEST_P(Shells, TheTextIsQuantizedAndTheRestPassesThrough) {
  quantize("text");
  const Plan plan = quantize("shell");
  const Checkpoint text = Checkpoint::open(path("text-out"), system_files());
  const Checkpoint shell = Checkpoint::open(path("shell-out"), system_files());
  EXPECT_EQ(shell.tensors().size(), text.tensors().size() + 2);
  for (const Tensor& tensor : text.tensors())
    ASSERT_EQ(tensor_bytes(text, tensor.name), tensor_bytes(shell, "language_model." + tensor.name))
        << tensor.name;
  const Checkpoint source = Checkpoint::open(path("shell"), system_files());
  EXPECT_EQ(tensor_bytes(shell, kProjector), tensor_bytes(source, kProjector));
  const Json& ignored = plan.config.at("quantization_config").at("ignore");
  for (const char* name : {"vision_tower.*", "mm_projector.*", "language_model.lm_head"})
    EXPECT_NE(std::ranges::find(ignored, Json(name)), ignored.end()) << name << " " << ignored;
  EXPECT_EQ(plan.config.at("text_config"), source.config().at("text_config"));
}

INSTANTIATE_TEST_SUITE_P(
    Each, Shells,
    ::testing::Values(Shell{"kimi_k25", "deepseek-v3-tiny", "kimi_k2", "KimiK25ForConditionalGeneration"},
                      Shell{"mistral3", "qwen3-tiny", "mistral", "Mistral3ForConditionalGeneration"},
                      Shell{"mistral3", "qwen3-tiny", "ministral3", "Mistral3ForConditionalGeneration"}),
    [](const auto& shell) { return shell.param.name + "_" + shell.param.text_type; });

// Ministral-3 scales queries behind its original length, which is 0 before.
TEST(Ministral3, RowsUpToTheOriginalLengthNeedNoScaledQueries) {
  Json config = preset_config("qwen3-tiny");
  config["model_type"] = "ministral3";
  config["sliding_window"] = nullptr;
  config["rope_parameters"] = {{"rope_type", "yarn"},
                               {"rope_theta", 1000000.0},
                               {"factor", 16.0},
                               {"original_max_position_embeddings", 64},
                               {"llama_4_scaling_beta", 0.1}};
  config.erase("rope_theta"), config.erase("rope_scaling");
  const Model model = read_model(config, "config.json");
  EXPECT_EQ(std::get<DecoderSpec>(model.spec).longest_row, 64u);
  EXPECT_NO_THROW(check_row_length(model, 64));
  testing::expect_error(
      ErrorKind::kUnsupported, [&] { check_row_length(model, 65); }, "llama_4_scaling_beta", "at most 64");
}

}  // namespace
}  // namespace nibblecast
