// Families without a forward pass: their tables, and whole jobs that need no activations.
#include <gtest/gtest.h>

#include "family_models.h"
#include "formats/nvfp4_quantize.h"
#include "pipeline/stack_bytes.h"
#include "pipeline/verify.h"
#include "plan/forward_plan.h"
#include "sha256.h"
#include "stored_checkpoint.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::tensor_bytes;

Plan plan_of(const Checkpoint& source, const std::string& recipe, std::optional<RecipeMethod> method = {}) {
  QuantizeOptions options;
  options.recipe = recipe;
  options.weight_method = method;
  options.input_scale = InputScalePolicy::kConstant;
  options.engines = {};
  return make_plan(source, options);
}

VerifyReport proof_of(const Checkpoint& source, const std::filesystem::path& output) {
  return verify(source, output, system_files(), VerifyOptions{});
}

// ---- gpt-oss ----

// Every quantized tensor of ModelOpt's export, experts in one tensor.
TEST(GptOss, IsModelOptsExportToTheByte) {
  SKIP_WITHOUT_FAMILY_MODEL(folder, "gpt_oss");
  const Checkpoint source = Checkpoint::open(folder, system_files());
  for (const std::string recipe : {"nvfp4", "nvfp4_experts_only", "nvfp4_mlp_only"}) {
    const testing::TemporaryFolder work;
    testing::run_job(source, plan_of(source, recipe, RecipeMethod::kMax), testing::kNoActivations,
                     work.path() / "out");
    const Checkpoint output = Checkpoint::open(work.path() / "out", system_files());
    const std::filesystem::path golden = folder / ("modelopt-" + recipe + ".json");
    const Json tensors =
        parse_json(read_text(system_files(), golden, 1 << 24), golden.string()).at("tensors");
    size_t compared = 0;
    for (const auto& [name, is] : tensors.items()) {
      ASSERT_NE(output.find(name), nullptr) << name;
      const bool is_scale_2 = name.ends_with("weight_scale_2");
      if (is[0] == "F32" && !is_scale_2) continue;  // kept, or an input_scale
      EXPECT_EQ(dtype_name(output.at(name).dtype), is[0].get<std::string>()) << name;
      EXPECT_EQ(Json(output.at(name).shape), is[1]) << name;
      EXPECT_EQ(testing::Sha256::hex(TensorReader(output).read(output.at(name))), is[2].get<std::string>())
          << name;
      ++compared;
    }
    EXPECT_EQ(compared, recipe == "nvfp4" ? 54u : 18u);
    EXPECT_EQ(output.tensors().size(), tensors.size());
    EXPECT_TRUE(proof_of(source, work.path() / "out").problems.empty());
  }
}

// The cast loses nothing: the nibbles are the source's, each expert's matrix transposed.
TEST(GptOss, ExpertsAreCastWithoutLoss) {
  SKIP_WITHOUT_FAMILY_MODEL(folder, "gpt_oss");
  const Checkpoint source = Checkpoint::open(folder, system_files());
  const testing::TemporaryFolder work;
  const RunRecord record = testing::run_job(source, plan_of(source, "w4a16_nvfp4", RecipeMethod::kCast),
                                            testing::kNoActivations, work.path() / "out");
  EXPECT_GT(record.blocks.blocks, 0u);
  EXPECT_EQ(record.blocks.outside_window, 0u);
  const Checkpoint output = Checkpoint::open(work.path() / "out", system_files());
  const std::string name = "model.layers.1.mlp.experts.gate_up_proj";
  std::vector<std::byte> made = TensorReader(output).read(output.at(name));
  const Shape& shape = output.at(name).shape;
  transpose_stack(made, shape[0], shape[1], 1);
  EXPECT_EQ(made, TensorReader(source).read(source.at(name + "_blocks")));
  EXPECT_EQ(output.find(name + "_input_scale"), nullptr);
  EXPECT_TRUE(proof_of(source, work.path() / "out").problems.empty());
  testing::edit_tensor(work.path() / "out", name, 5, "\x5a");
  EXPECT_FALSE(proof_of(source, work.path() / "out").problems.empty());
}

TEST(GptOss, ForwardPassesAndOtherFormsAreRefused) {
  SKIP_WITHOUT_FAMILY_MODEL(folder, "gpt_oss");
  const Checkpoint source = Checkpoint::open(folder, system_files());
  expect_error(
      ErrorKind::kUnsupported, [&] { make_forward_plan(source, ComputeDtype::kBF16); }, "config.json",
      "gpt_oss models have no forward pass yet", "sinks", "--input-scale 1.0");
  QuantizeOptions options;
  options.format = OutputFormat::kCompressedTensors;
  expect_error(
      ErrorKind::kUnsupported, [&] { make_plan(source, options); }, "gpt_oss models are not written so");
}

// ---- Llama-4 ----

// Experts are stored transposed, [experts, in, out], in one tensor, and written so.
TEST(Llama4, ExpertsInOneTensorAreQuantizedByTheirRows) {
  const testing::TemporaryFolder work;
  const Json config = {{"model_type", "llama4_text"},
                       {"num_hidden_layers", 2},
                       {"vocab_size", 128},
                       {"hidden_size", 64},
                       {"intermediate_size", 32},
                       {"intermediate_size_mlp", 96},
                       {"num_attention_heads", 4},
                       {"num_key_value_heads", 2},
                       {"head_dim", 16},
                       {"interleave_moe_layer_step", 2},
                       {"num_local_experts", 3},
                       {"num_experts_per_tok", 1}};
  const Model model = read_model(config, "config.json");
  std::vector<testing::StoredTensor> stored;
  const auto add = [&](const LayerTable& table) {
    for (const WeightModule& module : table.modules) {
      const Shape& shape = module.shape;
      if (module.stack == 0)
        stored.push_back({module.name + ".weight", Dtype::kBF16, shape});
      else
        stored.push_back({module.name, Dtype::kBF16, {module.stack, shape[1], shape[0] / module.stack}});
    }
    for (const PlainTensor& tensor : table.plain) stored.push_back({tensor.name, Dtype::kBF16, tensor.shape});
  };
  add(model.table.globals);
  for (const LayerTable& layer : model.table.layers) add(layer);
  testing::write_checkpoint(work.path() / "source", stored, config);
  const Checkpoint source = Checkpoint::open(work.path() / "source", system_files());
  testing::run_job(source, plan_of(source, "nvfp4"), testing::kNoActivations, work.path() / "out");
  EXPECT_TRUE(proof_of(source, work.path() / "out").problems.empty());
  const Checkpoint output = Checkpoint::open(work.path() / "out", system_files());
  const std::string name = "model.layers.1.feed_forward.experts.gate_up_proj";
  EXPECT_EQ(output.at(name).shape, (Shape{3, 32, 64}));
  EXPECT_EQ(output.at(name + "_weight_scale").shape, (Shape{3, 4, 64}));

  // As the reference makes them of rows [3 * 64, 64].
  std::vector<std::byte> rows = TensorReader(source).read(source.at(name));
  transpose_stack(rows, 3, 64, sizeof(bf16));
  std::vector<bf16> values(rows.size() / sizeof(bf16));
  std::memcpy(values.data(), rows.data(), rows.size());
  const Nvfp4Quantizer quantizer(WeightMethod::kMax, scan_amax(values.data(), values.size()).amax);
  std::vector<std::byte> codes(values.size() / 2), scales(values.size() / 16);
  quantizer.encode_ref(values.data(), 3 * 64, 64, reinterpret_cast<uint8_t*>(codes.data()),
                       reinterpret_cast<uint8_t*>(scales.data()));
  transpose_stack(codes, 3, 64, 1), transpose_stack(scales, 3, 64, 1);
  EXPECT_EQ(TensorReader(output).read(output.at(name)), codes);
  EXPECT_EQ(TensorReader(output).read(output.at(name + "_weight_scale")), scales);
  EXPECT_EQ(tensor_bytes(output, name + "_weight_scale_2"), testing::bytes_of<float>({quantizer.scale_2()}));
}

TEST(StackBytes, AreTransposedAndBack) {
  const std::string bytes = testing::plain_bytes(Dtype::kU8, 3 * 70 * 65 * 2);
  std::vector<std::byte> turned(bytes.size());
  std::memcpy(turned.data(), bytes.data(), bytes.size());
  const std::vector<std::byte> before = turned;
  transpose_stack(turned, 3, 70, 2);
  for (size_t matrix = 0; matrix < 3; ++matrix)
    for (size_t row = 0; row < 70; ++row)
      for (size_t col = 0; col < 65; ++col)
        ASSERT_EQ(turned[(matrix * 70 * 65 + col * 70 + row) * 2 + 1],
                  before[(matrix * 70 * 65 + row * 65 + col) * 2 + 1]);
  transpose_stack(turned, 3, 65, 2);
  EXPECT_EQ(turned, before);
}

// ---- ModelOpt's exports ----

class ModelOptExport : public ::testing::TestWithParam<std::string> {};

// All tensors but the scales of inputs, which hang on what was measured. tools/make_weights_only_models.py
TEST_P(ModelOptExport, IsMadeToTheByte) {
  SKIP_WITHOUT_FAMILY_MODEL(folder, GetParam());
  const Checkpoint source = Checkpoint::open(folder, system_files());
  const testing::TemporaryFolder work;
  testing::run_job(source, plan_of(source, "nvfp4"), testing::kNoActivations, work.path() / "out");
  const Checkpoint output = Checkpoint::open(work.path() / "out", system_files());
  const std::filesystem::path golden = folder / "modelopt-nvfp4.json";
  const Json document = parse_json(read_text(system_files(), golden, 1 << 24), golden.string());
  for (const auto& [name, is] : document.at("tensors").items()) {
    // Of no layer: it stays as it is.
    if (name.find("per_layer_model_projection") != std::string::npos) continue;
    ASSERT_NE(output.find(name), nullptr) << name;
    const Tensor& tensor = output.at(name);
    EXPECT_EQ(Json({dtype_name(tensor.dtype), tensor.shape}), Json({is[0], is[1]})) << name;
    EXPECT_EQ(testing::Sha256::hex(TensorReader(output).read(tensor)), is[2].get<std::string>()) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Each, ModelOptExport,
                         ::testing::Values("gemma3_text", "gemma4_text", "llama4_text", "nemotron_h"),
                         [](const auto& family) { return family.param; });

// ---- tables ----

// A small config of each kind of layer that a family has, how many modules `nvfp4` quantizes, and names and
// shapes that its checkpoints have.
struct Table {
  std::string name;
  Json config;
  size_t quantized;
  std::vector<std::pair<std::string, Shape>> tensors;
  std::vector<std::string> absent = {};
};
void PrintTo(const Table& table, std::ostream* out) { *out << table.name; }

Json sizes(const char* model_type, int layers, const Json& more) {
  Json config = {{"model_type", model_type}, {"num_hidden_layers", layers},
                 {"vocab_size", 128},        {"hidden_size", 64},
                 {"intermediate_size", 96},  {"num_attention_heads", 4},
                 {"num_key_value_heads", 2}, {"head_dim", 16}};
  config.update(more);
  return config;
}

Json gemma4() {
  return sizes("gemma4_text", 6,
               {{"global_head_dim", 32},
                {"num_global_key_value_heads", 1},
                {"attention_k_eq_v", true},
                {"hidden_size_per_layer_input", 16},
                {"vocab_size_per_layer_input", 128},
                {"num_kv_shared_layers", 2},
                {"use_double_wide_mlp", true},
                {"layer_types",
                 {"sliding_attention", "full_attention", "sliding_attention", "full_attention",
                  "sliding_attention", "full_attention"}}});
}

Json nemotron() {
  return sizes("nemotron_h", 4,
               {{"layers_block_type", {"mamba", "moe", "attention", "mlp"}},
                {"ssm_state_size", 16},
                {"mamba_num_heads", 8},
                {"mamba_head_dim", 16},
                {"n_groups", 2},
                {"conv_kernel", 4},
                {"n_routed_experts", 8},
                {"num_experts_per_tok", 2},
                {"moe_intermediate_size", 32},
                {"moe_shared_expert_intermediate_size", 48},
                {"moe_latent_size", 32}});
}

// Two layers of Kimi's delta attention and one of latent attention; the first MLP dense.
Json kimi() {
  return sizes("kimi_linear", 3,
               {{"linear_attn_config",
                 {{"head_dim", 16},
                  {"num_heads", 4},
                  {"short_conv_kernel_size", 4},
                  {"kda_layers", {1, 3}},
                  {"full_attn_layers", {2}}}},
                {"first_k_dense_replace", 1},
                {"moe_intermediate_size", 32},
                {"num_experts", 4},
                {"num_experts_per_token", 2},
                {"num_shared_experts", 1},
                {"q_lora_rank", nullptr},
                {"kv_lora_rank", 32},
                {"qk_nope_head_dim", 16},
                {"qk_rope_head_dim", 16},
                {"v_head_dim", 16}});
}

Json kimi_k3() {
  Json text = kimi();
  text.update({{"q_lora_rank", 32}, {"routed_expert_hidden_size", 48}, {"num_shared_experts", 2}});
  // What the release says of its experts stands there.
  text["quantization_config"] = {{"quant_method", "compressed-tensors"}, {"format", "mxfp4-pack-quantized"}};
  return {{"model_type", "kimi_k3"}, {"text_config", text}};
}

Json glm5_next() {
  Json config = kimi();
  config.erase("linear_attn_config");
  config.update({{"model_type", "glm5_next_text"},
                 {"layer_types", {"linear_attention", "indexed_attention", "indexed_attention"}},
                 {"indexer_types", {"shared", "full", "shared"}},
                 {"linear_head_dim", 16},
                 {"linear_num_heads", 4},
                 {"linear_conv_kernel_dim", 4},
                 {"q_lora_rank", 32},
                 {"qk_rope_head_dim", 0},
                 {"hc_mult", 4},
                 {"index_n_heads", 2},
                 {"index_head_dim", 16},
                 {"index_kpool", 4}});
  return config;
}

Json minimax_m3() {
  return sizes("minimax_m3_vl_text", 2,
               {{"intermediate_size", 32},
                {"dense_intermediate_size", 96},
                {"shared_intermediate_size", 48},
                {"num_local_experts", 4},
                {"num_experts_per_tok", 2},
                {"layer_types", {"full_attention", "minimax_m3_sparse"}},
                {"mlp_layer_types", {"dense", "sparse"}},
                {"index_n_heads", 2},
                {"index_head_dim", 16}});
}

std::vector<Table> tables() {
  Json moe = gemma4();
  moe.update(
      {{"enable_moe_block", true}, {"num_experts", 4}, {"top_k_experts", 2}, {"moe_intermediate_size", 32}});
  Json listed = gemma4();  // as transformers saves it
  for (const char* key : {"global_head_dim", "num_global_key_value_heads"}) listed.erase(key);
  for (const char* layer : {"1", "3", "5"})
    listed["per_layer_config"][layer] = {{"head_dim", 32}, {"num_key_value_heads", 1}};
  const Json outer = {{"model_type", "gemma3"}, {"text_config", sizes("gemma3_text", 2, Json::object())}};
  return {
      {"gemma3",
       outer,
       14,
       {{"language_model.model.layers.1.mlp.gate_proj.weight", {96, 64}},
        {"language_model.model.layers.1.self_attn.q_norm.weight", {16}},
        {"language_model.model.layers.1.pre_feedforward_layernorm.weight", {64}},
        {"language_model.model.embed_tokens.weight", {128, 64}}},
       {"language_model.lm_head.weight"}},
      // Four layers with keys, two of them with values; two of every layer's embedding.
      {"gemma4",
       gemma4(),
       2 * 6 + 4 + 2 + 3 * 6 + 2 * 6,
       {{"model.layers.0.self_attn.v_proj.weight", {32, 64}},
        {"model.layers.1.self_attn.q_proj.weight", {128, 64}},
        {"model.layers.1.self_attn.k_proj.weight", {32, 64}},
        {"model.layers.3.mlp.down_proj.weight", {64, 96}},
        {"model.layers.4.mlp.down_proj.weight", {64, 192}},
        {"model.layers.5.layer_scalar", {1}},
        {"model.layers.5.per_layer_projection.weight", {64, 16}},
        {"model.embed_tokens_per_layer.weight", {128, 96}},
        {"model.per_layer_model_projection.weight", {96, 64}}},
       {"model.layers.1.self_attn.v_proj.weight", "model.layers.4.self_attn.k_proj.weight"}},
      {"gemma4_listed",
       listed,
       2 * 6 + 4 + 2 + 3 * 6 + 2 * 6,
       {{"model.layers.0.self_attn.q_proj.weight", {64, 64}},
        {"model.layers.1.self_attn.q_proj.weight", {128, 64}},
        {"model.layers.1.self_attn.k_proj.weight", {32, 64}}}},
      {"gemma4_experts",
       moe,
       2 * 6 + 4 + 2 + 3 * 6 + 2 * 6 + 6 * 4 * 3,
       {{"model.layers.2.experts.3.down_proj.weight", {64, 32}},
        {"model.layers.2.router.proj.weight", {4, 64}},
        {"model.layers.2.router.per_expert_scale", {4}},
        {"model.layers.2.pre_feedforward_layernorm_2.weight", {64}},
        {"model.layers.2.mlp.gate_proj.weight", {96, 64}}}},
      {"nemotron_h",
       nemotron(),
       2 + (4 + 8 * 2) + 4 + 2,
       {{"backbone.layers.0.mixer.in_proj.weight", {2 * 128 + 2 * 2 * 16 + 8, 64}},
        {"backbone.layers.0.mixer.conv1d.weight", {128 + 2 * 2 * 16, 1, 4}},
        {"backbone.layers.0.mixer.conv1d.bias", {128 + 2 * 2 * 16}},
        {"backbone.layers.1.mixer.experts.7.up_proj.weight", {32, 32}},
        {"backbone.layers.1.mixer.shared_experts.down_proj.weight", {64, 48}},
        {"backbone.layers.1.mixer.gate.e_score_correction_bias", {8}},
        {"backbone.layers.2.mixer.o_proj.weight", {64, 64}},
        {"backbone.layers.3.mixer.up_proj.weight", {96, 64}},
        {"backbone.norm_f.weight", {64}},
        {"lm_head.weight", {128, 64}}}},
      {"kimi_linear",
       kimi(),
       2 * 9 + 4 + 3 + 2 * (3 + 4 * 3),
       {{"model.layers.0.self_attn.A_log", {1, 1, 4, 1}},
        {"model.layers.0.self_attn.k_conv1d.weight", {64, 1, 4}},
        {"model.layers.0.self_attn.f_a_proj.weight", {16, 64}},
        {"model.layers.0.mlp.gate_proj.weight", {96, 64}},
        {"model.layers.1.self_attn.q_proj.weight", {128, 64}},
        {"model.layers.1.self_attn.kv_a_proj_with_mqa.weight", {48, 64}},
        {"model.layers.1.block_sparse_moe.experts.3.w2.weight", {64, 32}},
        {"model.layers.2.block_sparse_moe.gate.e_score_correction_bias", {4}}}},
      {"kimi_k3",
       kimi_k3(),
       2 * 8 + 6 + 3 + 2 * (3 + 2 + 4 * 3),
       {{"language_model.model.layers.0.self_attn.A_log", {128}},
        {"language_model.model.layers.0.self_attn.g_proj.weight", {64, 64}},
        {"language_model.model.layers.1.self_attn.g_proj.weight", {64, 64}},
        {"language_model.model.layers.1.mlp_res_proj.weight", {1, 64}},
        {"language_model.model.layers.1.block_sparse_moe.routed_expert_up_proj.weight", {64, 48}},
        {"language_model.model.layers.1.block_sparse_moe.experts.3.w2.weight", {48, 32}},
        {"language_model.model.output_attn_res_norm.weight", {64}},
        {"language_model.lm_head.weight", {128, 64}}}},
      {"glm5_next",
       glm5_next(),
       9 + 2 * 5 + 3 + 3 + 2 * (3 + 4 * 3),
       {{"model.layers.0.self_attn.A_log", {4}},
        {"model.layers.1.self_attn.indexer.wq_b.weight", {32, 32}},
        {"model.layers.1.self_attn.indexer.index_kpool_compress_gate", {16, 64}},
        {"model.layers.2.hc_ffn_fn", {24, 256}},
        {"model.layers.2.mlp.shared_experts.up_proj.weight", {32, 64}}},
       {"model.layers.2.self_attn.indexer.wk.weight"}},
      {"minimax_m3",
       minimax_m3(),
       2 * 4 + 2 + 3 + 3 + 4 * 3,
       {{"model.layers.1.self_attn.index_q_proj.weight", {32, 64}},
        {"model.layers.0.mlp.down_proj.weight", {64, 96}},
        {"model.layers.1.block_sparse_moe.shared_experts.gate_proj.weight", {48, 64}},
        {"model.layers.1.block_sparse_moe.experts.3.w3.weight", {32, 64}}}},
  };
}

class Tables : public ::testing::TestWithParam<Table> {
 protected:
  Tables() {
    std::vector<testing::StoredTensor> stored;
    const Model model = read_model(GetParam().config, "config.json");
    const auto add = [&](const LayerTable& table) {
      for (const WeightModule& module : table.modules)
        stored.push_back({module.name + ".weight", Dtype::kBF16, module.shape});
      for (const PlainTensor& tensor : table.plain)
        stored.push_back({tensor.name, Dtype::kBF16, tensor.shape});
    };
    add(model.table.globals);
    for (const LayerTable& layer : model.table.layers) add(layer);
    testing::write_checkpoint(folder_.path() / "source", stored, GetParam().config);
  }
  Checkpoint source() const { return Checkpoint::open(folder_.path() / "source", system_files()); }
  std::filesystem::path output() const { return folder_.path() / "out"; }

 private:
  testing::TemporaryFolder folder_;
};

TEST_P(Tables, HaveTheFamilysTensors) {
  const Checkpoint checkpoint = source();
  for (const auto& [name, shape] : GetParam().tensors) {
    ASSERT_NE(checkpoint.find(name), nullptr) << name;
    EXPECT_EQ(checkpoint.at(name).shape, shape) << name;
  }
  for (const std::string& name : GetParam().absent) EXPECT_EQ(checkpoint.find(name), nullptr) << name;
}

TEST_P(Tables, AreQuantizedWithoutActivations) {
  const Checkpoint checkpoint = source();
  for (const char* recipe : {"w4a16_nvfp4", "nvfp4", "auto"}) {
    SCOPED_TRACE(recipe);
    std::filesystem::remove_all(output());
    const Plan plan = plan_of(checkpoint, recipe);
    ASSERT_FALSE(plan.refused());
    testing::run_job(checkpoint, plan, testing::kNoActivations, output());
    EXPECT_TRUE(proof_of(checkpoint, output()).problems.empty());
    const auto is_codes = [](const Tensor& tensor) { return tensor.dtype == Dtype::kU8; };
    const Checkpoint made = Checkpoint::open(output(), system_files());
    const auto quantized = static_cast<size_t>(std::ranges::count_if(made.tensors(), is_codes));
    if (std::string(recipe) != "auto")
      EXPECT_EQ(quantized, GetParam().quantized);
    else
      EXPECT_GT(quantized, 0u);
  }
  expect_error(
      ErrorKind::kUnsupported, [&] { make_forward_plan(checkpoint, ComputeDtype::kBF16); },
      "no forward pass yet");
}

INSTANTIATE_TEST_SUITE_P(Each, Tables, ::testing::ValuesIn(tables()),
                         [](const auto& table) { return table.param.name; });

}  // namespace
}  // namespace nibblecast
