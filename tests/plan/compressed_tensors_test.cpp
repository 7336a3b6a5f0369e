// Documents of compressed-tensors' form, and engines' rules of it, from tables alone.
#include "plan/dialects/compressed_tensors.h"

#include "modelopt_testing.h"
#include "plan/dialects/dialect.h"
#include "plan/engines/compressed_tensors.h"
#include "plan/plan.h"

namespace nibblecast {
namespace {

using enum Engine;
using testing::empty_checkpoint;
using testing::expect_error;
using testing::recipe_of_rules;
using testing::TemporaryFolder;
using testing::tiny_config;

struct Output {
  Model model;
  Json config;
  std::vector<Tensor> tensors;

  Json& quantization() { return config["quantization_config"]; }
  Tensor& tensor(const std::string& name) {
    const auto found = std::ranges::find(tensors, name, &Tensor::name);
    if (found == tensors.end()) throw std::runtime_error(name);
    return *found;
  }
};

void add_tensors(const ResolvedModule& resolved, std::vector<Tensor>& tensors) {
  const Shape& shape = resolved.module->shape;
  const std::string_view scheme = compressed_tensors_scheme(resolved);
  const auto add = [&](const char* kind, Dtype dtype, Shape of) {
    tensors.push_back({.name = resolved.module->name + kind, .dtype = dtype, .shape = std::move(of)});
  };
  if (scheme.empty()) return add(".weight", Dtype::kBF16, shape);
  if (scheme == "FP8") {
    add(".weight", Dtype::kF8E4M3, shape);
    add(".weight_scale", Dtype::kF32, {1});
    return add(".input_scale", Dtype::kF32, {1});
  }
  add(".weight_packed", Dtype::kU8, {shape[0], shape[1] / 2});
  add(".weight_scale", Dtype::kF8E4M3, {shape[0], shape[1] / 16});
  add(".weight_global_scale", Dtype::kF32, {1});
  if (scheme == "NVFP4") add(".input_global_scale", Dtype::kF32, {1});
}

Output output_of(const Json& config, const Recipe& recipe, KvCache kv_cache = KvCache::kNone,
                 const std::vector<std::string>& names = {"nothing"}) {
  const TemporaryFolder folder;
  Output output{.model = read_model(config, "config.json"), .config = {}, .tensors = {}};
  const auto modules = resolve_modules(recipe, output.model.table, {});
  const Checkpoint source = empty_checkpoint(folder, config, names);
  output.config = compressed_tensors_config(source, output.model.table, modules, kv_cache);
  for (const ResolvedModule& each : modules) add_tensors(each, output.tensors);
  return output;
}

Output output_of(const std::string& model_type, const std::string& recipe) {
  return output_of(tiny_config(model_type), load_recipe(system_files(), recipe));
}

std::string breaches_text(const Output& output, const Json& hf_quant_config = nullptr) {
  std::string text;
  for (const Breach& breach :
       check_compressed_tensors_contracts(output.model, output.config, hf_quant_config, output.tensors))
    text += std::string(engine_name(breach.engine)) + ": " + breach.rule + "\n";
  return text;
}

// ---- documents ----

TEST(CompressedTensorsDocuments, Uniform) {
  Output output = output_of("qwen3_moe", "nvfp4_experts_only");
  Json ignored = Json::array();
  for (const char* layer : {"model.layers.0.", "model.layers.1."}) {
    for (const char* name :
         {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate"})
      ignored.push_back(std::string(layer) + name);
  }
  ignored.push_back("lm_head");
  const Json& quantization = output.quantization();
  EXPECT_EQ(quantization.at("ignore"), ignored);
  EXPECT_EQ(quantization.at("format"), "nvfp4-pack-quantized");
  EXPECT_EQ(quantization.at("quant_method"), "compressed-tensors");
  ASSERT_EQ(quantization.at("config_groups").size(), 1u);
  const Json& group = quantization.at("config_groups").at("group_0");
  EXPECT_EQ(group.at("targets"), Json({"Linear"}));
  EXPECT_EQ(group.at("input_activations").at("dynamic"), "local");
  EXPECT_EQ(quantization.at("kv_cache_scheme"), Json());
}

TEST(CompressedTensorsDocuments, WeightsAlone) {
  Output output = output_of("llama", "w4a16_nvfp4");
  const Json& group = output.quantization().at("config_groups").at("group_0");
  EXPECT_EQ(group.at("input_activations"), Json());
  EXPECT_EQ(group.at("weights").at("strategy"), "tensor_group");
}

// Of several schemes each lists its modules, and FP8 has a format of its own.
TEST(CompressedTensorsDocuments, Mixture) {
  Output output = output_of(tiny_config("llama"),
                            recipe_of_rules("  - modules: '*.mlp.*'\n    format: nvfp4\n"
                                            "  - modules: '*.self_attn.*'\n    format: fp8\n"
                                            "  - modules: 'model.layers.1.mlp.*'\n    format: keep\n"));
  const Json& quantization = output.quantization();
  EXPECT_EQ(quantization.at("format"), "mixed-precision");
  const Json& groups = quantization.at("config_groups");
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups.at("group_0").at("format"), "nvfp4-pack-quantized");
  EXPECT_EQ(
      groups.at("group_0").at("targets"),
      Json({"model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"}));
  EXPECT_EQ(groups.at("group_1").at("format"), "float-quantized");
  EXPECT_EQ(groups.at("group_1").at("weights").at("strategy"), "tensor");
  EXPECT_EQ(groups.at("group_1").at("targets").size(), 8u);
  EXPECT_EQ(quantization.at("ignore"), Json({"model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj",
                                             "model.layers.1.mlp.down_proj", "lm_head"}));
}

TEST(CompressedTensorsDocuments, DraftsAndTiedHeadsAreIgnored) {
  Json config = tiny_config("glm4_moe");
  config["num_nextn_predict_layers"] = 1;
  Output drafts = output_of(config, load_recipe(system_files(), "nvfp4"), KvCache::kNone,
                            {"model.layers.2.eh_proj.weight", "model.layers.2.enorm.weight"});
  const Json ignored = drafts.quantization().at("ignore");
  EXPECT_NE(std::ranges::find(ignored, Json("re:model\\.layers\\.2\\..*")), ignored.end());
  EXPECT_EQ(ignored.back(), "lm_head");

  Json tied = tiny_config("qwen3");
  tied["tie_word_embeddings"] = true;
  EXPECT_EQ(output_of(tied, load_recipe(system_files(), "nvfp4")).quantization().at("ignore"),
            Json({"lm_head"}));
}

TEST(CompressedTensorsDocuments, TheRestOfTheConfigStays) {
  Json config = tiny_config("llama");
  config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}};
  config["rope_theta"] = 5e5;
  Output output = output_of(config, load_recipe(system_files(), "nvfp4_mlp_only"));
  output.config.erase("quantization_config");
  config.erase("quantization_config");
  EXPECT_EQ(output.config, config);
  Output kept = output_of(config, recipe_of_rules("  - modules: '*'\n    format: keep\n"));
  EXPECT_EQ(kept.config, config);
}

TEST(CompressedTensorsDocuments, CachesAreDeclaredWithoutScalesOrRefused) {
  const Recipe recipe = load_recipe(system_files(), "nvfp4");
  Output output = output_of(tiny_config("llama"), recipe, KvCache::kFp8Cast);
  EXPECT_EQ(output.quantization().at("kv_cache_scheme").at("num_bits"), 8);
  EXPECT_EQ(output.quantization().at("kv_cache_scheme").at("strategy"), "tensor");
  for (const KvCache cache : {KvCache::kFp8, KvCache::kNvfp4Cast})
    expect_error(
        ErrorKind::kUnsupported, [&] { output_of(tiny_config("llama"), recipe, cache); },
        kv_cache_name(cache), "modelopt");
  expect_error(
      ErrorKind::kUnsupported,
      [&] {
        output_of(tiny_config("llama"), recipe_of_rules("  - modules: '*'\n    format: keep\n"),
                  KvCache::kFp8Cast);
      },
      "only where a module is quantized");
}

TEST(Dialects, AModelHasThoseThatItIsWrittenIn) {
  const Model llama = read_model(tiny_config("llama"), "config.json");
  EXPECT_EQ(formats_of(llama),
            (std::vector<OutputFormat>{OutputFormat::kModelOpt, OutputFormat::kCompressedTensors}));
  QuantizeOptions options;
  options.format = OutputFormat::kModelOptV4;
  expect_error(
      ErrorKind::kUnsupported, [&] { resolved_options(options, llama); }, "modelopt or compressed-tensors");
  EXPECT_EQ(parse_output_format("compressed-tensors"), OutputFormat::kCompressedTensors);
}

// ---- engines ----

TEST(CompressedTensorsContracts, OutputsOfBuiltInRecipesKeepThem) {
  for (const char* model_type : {"llama", "qwen3", "qwen3_moe", "glm4_moe", "deepseek_v3"}) {
    for (const std::string& recipe : built_in_recipes()) {
      Output output = output_of(model_type, recipe);
      if (!output.config.contains("quantization_config")) continue;
      const bool weights_alone = recipe == "w4a16_nvfp4";
      EXPECT_EQ(breaches_text(output), weights_alone ? "trtllm: groups of NVFP4A16 are not read\n" : "")
          << model_type << ' ' << recipe;
    }
  }
}

// vLLM and TensorRT-LLM ask by the checkpoint's names, SGLang by those of most families.
TEST(CompressedTensorsContracts, SglangDoesNotSeeThatMixtralsExpertsAreKept) {
  Output output =
      output_of(tiny_config("mixtral"), recipe_of_rules("  - modules: '*.self_attn.*'\n    format: nvfp4\n"
                                                        "    quantize_input: true\n"));
  const std::string text = breaches_text(output);
  EXPECT_NE(text.find("sglang: "), std::string::npos) << text;
  EXPECT_EQ(text.find("vllm: "), std::string::npos) << text;
  EXPECT_EQ(text.find("trtllm: "), std::string::npos) << text;
}

TEST(CompressedTensorsContracts, MixturesAreNotTensorRts) {
  Output output =
      output_of(tiny_config("llama"),
                recipe_of_rules("  - modules: '*.mlp.*'\n    format: nvfp4\n    quantize_input: true\n"
                                "  - modules: '*.self_attn.*'\n    format: fp8\n    quantize_input: true\n"));
  EXPECT_EQ(breaches_text(output), "trtllm: groups of FP8 are not read\n");
}

TEST(CompressedTensorsContracts, TensorsAreWhatTheSchemeSays) {
  const Output good = output_of("qwen3_moe", "nvfp4");
  const auto expect_breach = [&](const std::function<void(Output&)>& change, const std::string& rule) {
    Output bad = good;
    change(bad);
    const std::string text = breaches_text(bad);
    for (const char* engine : {"vllm", "sglang", "trtllm"})
      EXPECT_NE(text.find(std::string(engine) + ": " + rule), std::string::npos) << rule << " in\n" << text;
  };
  const std::string q = "model.layers.0.self_attn.q_proj", expert = "model.layers.1.mlp.experts.3.up_proj";
  expect_breach([&](Output& bad) { bad.tensor(q + ".weight_packed").dtype = Dtype::kI8; },
                q + ": weight_packed must be U8; found I8");
  expect_breach(
      [&](Output& bad) {
        bad.tensor(expert + ".weight_scale").shape = {16, 1};
      },
      expert + ": weight_scale has the shape");
  expect_breach([&](Output& bad) { bad.tensor(expert + ".weight_global_scale").shape = {2}; },
                expert + ": weight_global_scale has the shape");
  expect_breach([&](Output& bad) { bad.tensor(expert + ".input_global_scale").name = "x"; },
                expert + ": input_global_scale must be present");
  expect_breach([&](Output& bad) { bad.tensor("model.layers.0.mlp.gate.weight").dtype = Dtype::kU8; },
                "model.layers.0.mlp.gate: weight must be BF16");
  expect_breach([&](Output& bad) { bad.quantization()["quant_method"] = "modelopt"; },
                "quantization_config.quant_method must be");
  expect_breach([&](Output& bad) { bad.quantization()["ignore"] = "lm_head"; },
                "quantization_config.ignore must be a list");
  expect_breach([&](Output& bad) { bad.quantization()["config_groups"] = 3; },
                "quantization_config.config_groups must be an object");
  expect_breach(
      [&](Output& bad) { bad.quantization()["config_groups"]["group_0"]["weights"]["group_size"] = 32; },
      "quantization_config.config_groups.group_0 is no scheme");
  expect_breach([&](Output& bad) { bad.config.erase("quantization_config"); },
                "config.json must have a quantization_config");
  expect_breach([&](Output& bad) { bad.config["architectures"] = {"Other"}; }, "architectures must name");
}

TEST(CompressedTensorsContracts, PartsOfALayerHaveOneScheme) {
  Output output = output_of("llama", "nvfp4");
  output.quantization()["ignore"].push_back("model.layers.0.self_attn.k_proj");
  const std::string text = breaches_text(output);
  for (const char* engine : {"vllm", "sglang", "trtllm"})
    EXPECT_NE(text.find(std::string(engine) + ": model.layers.0.self_attn.qkv_proj: its parts have"),
              std::string::npos)
        << text;
}

TEST(CompressedTensorsContracts, IgnoredByPattern) {
  Output output = output_of("llama", "nvfp4");
  output.quantization()["ignore"] = {"re:.*lm_head$"};
  EXPECT_EQ(breaches_text(output), "");
  output.quantization()["ignore"] = {"lm_head", "re:model\\.layers\\.0\\.self_attn\\..*"};
  EXPECT_NE(breaches_text(output).find("model.layers.0.self_attn.q_proj and 3 more: weight must be present"),
            std::string::npos);
  for (const char* odd : {"re:(", "re:[a", "re:\\", "re:a{9999999}", "re:$$", "re:"}) {
    output.quantization()["ignore"] = {"lm_head", odd};
    breaches_text(output);  // and comes back
  }
}

TEST(CompressedTensorsContracts, ModelOptsDocumentBesideItIsRead) {
  EXPECT_EQ(breaches_text(output_of("llama", "nvfp4"), Json::object()),
            "trtllm: hf_quant_config.json must be absent, or it is read instead\n");
}

}  // namespace
}  // namespace nibblecast
