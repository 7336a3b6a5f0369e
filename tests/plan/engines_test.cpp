#include "plan/engines.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <fstream>
#include <functional>
#include <map>
#include <set>

#include "model/families/deepseek_v4/tensors.h"
#include "plan/glob.h"
#include "testing.h"

namespace nibblecast {
namespace {

using ::testing::HasSubstr;

// A checkpoint of two layers with two experts and a draft layer that keeps every contract.
struct Output {
  Json config, hf_quant_config;
  std::vector<Tensor> tensors;

  Output() {
    const Json layer = {{"quant_algo", "NVFP4"}, {"group_size", 16}};
    const Json layers = {{"layers.0.ffn.experts", layer}, {"layers.1.ffn.experts", layer}};
    config = {{"architectures", {"DeepseekV4ForCausalLM"}},
              {"model_type", "deepseek_v4"},
              {"expert_dtype", "fp4"},
              {"num_hidden_layers", 2},
              {"n_routed_experts", 2},
              {"compress_ratios", {128, 4, 0}},
              {"compress_rope_theta", 160000},
              {"quantization_config",
               {{"activation_scheme", "dynamic"},
                {"group_size", 16},
                {"ignore", {"*.attn.*", "head", "mtp.*"}},
                {"kv_cache_quant_algo", nullptr},
                {"moe_quant_algo", "NVFP4"},
                {"quant_algo", "MIXED_PRECISION"},
                {"quant_method", "fp8"},
                {"quantized_layers", layers},
                {"weight_block_size", {128, 128}}}}};
    hf_quant_config = {
        {"quantization",
         {{"quant_algo", "MIXED_PRECISION"}, {"group_size", 16}, {"quantized_layers", layers}}}};
    for (uint64_t layer_index = 0; layer_index < 2; ++layer_index) {
      add(fmt::format("layers.{}.attn.wq_a.weight", layer_index), Dtype::kF8E4M3, {128, 128});
      for (uint64_t expert = 0; expert < 2; ++expert) {
        for (int projection = 1; projection <= 3; ++projection) {
          add_expert(expert_module(layer_index, expert, projection));
        }
      }
    }
    add("mtp.0.ffn.experts.0.w1.weight", Dtype::kI8, {64, 32});
    add("mtp.0.ffn.experts.0.w1.scale", Dtype::kF8E8M0, {64, 2});
  }

  void add(const std::string& name, Dtype dtype, const Shape& shape) {
    tensors.push_back({.name = name, .dtype = dtype, .shape = shape});
  }
  void add_expert(const std::string& module) {
    add(module + ".weight", Dtype::kU8, {64, 32});
    add(module + ".weight_scale", Dtype::kF8E4M3, {64, 4});
    add(module + ".weight_scale_2", Dtype::kF32, {});
    add(module + ".input_scale", Dtype::kF32, {1});
  }
  // Makes the routed experts under `prefix` MXFP4, as the release has them.
  void keep_experts(const std::string& prefix) {
    std::erase_if(tensors, [&](const Tensor& tensor) {
      return tensor.name.starts_with(prefix) && tensor.name.find(".experts.") != std::string::npos;
    });
    for (uint64_t layer = 0; layer < 2; ++layer) {
      for (uint64_t expert = 0; expert < 2; ++expert) {
        for (int projection = 1; projection <= 3; ++projection) {
          const std::string module = expert_module(layer, expert, projection);
          if (!module.starts_with(prefix)) continue;
          add(module + ".weight", Dtype::kI8, {64, 32});
          add(module + ".scale", Dtype::kF8E8M0, {64, 2});
        }
      }
    }
  }
  void remove(const std::string& name) {
    ASSERT_EQ(std::erase_if(tensors, [&](const Tensor& tensor) { return tensor.name == name; }), 1u) << name;
  }
  Tensor& at(const std::string& name) {
    for (Tensor& tensor : tensors) {
      if (tensor.name == name) return tensor;
    }
    throw std::out_of_range(name);
  }
  Json& quantization() { return config["quantization_config"]; }

  std::vector<Breach> check() const { return check_engine_contracts(config, hf_quant_config, tensors); }
  // The rules broken, and by whom: "vllm sglang: RULE", one a line.
  std::string breaches() const {
    std::string text, last;
    for (const Breach& breach : check()) {
      if (breach.rule != last) text += (text.empty() ? "" : "\n") + breach.rule + " |";
      text += " " + std::string(engine_name(breach.engine));
      last = breach.rule;
    }
    return text;
  }
};

TEST(Engines, AcceptsTheContract) { EXPECT_EQ(Output().breaches(), ""); }

struct Mutation {
  const char* name;
  std::function<void(Output&)> apply;
  const char* breaches;
};

void PrintTo(const Mutation& mutation, std::ostream* out) { *out << mutation.name; }

std::string mutation_name(const ::testing::TestParamInfo<Mutation>& mutation) { return mutation.param.name; }

class EnginesBroken : public ::testing::TestWithParam<Mutation> {};

TEST_P(EnginesBroken, NamesEngineAndRule) {
  Output output;
  GetParam().apply(output);
  EXPECT_EQ(output.breaches(), GetParam().breaches);
}

Mutation without(const char* name, const char* key, const char* breaches) {
  return {name, [key](Output& output) { ASSERT_EQ(output.quantization().erase(key), 1u); }, breaches};
}
Mutation with(const char* name, const char* key, const Json& value, const char* breaches) {
  return {name, [key, value](Output& output) { output.quantization()[key] = value; }, breaches};
}

INSTANTIATE_TEST_SUITE_P(
    Config, EnginesBroken,
    ::testing::Values(
        without("no_quant_method", "quant_method",
                "quantization_config.quant_method must be \"fp8\"; found nothing | vllm sglang trtllm"),
        with("modelopt_method", "quant_method", "modelopt",
             "quantization_config.quant_method must be \"fp8\"; found \"modelopt\" | vllm sglang trtllm"),
        without("no_activation_scheme", "activation_scheme",
                "quantization_config.activation_scheme must be \"dynamic\"; found nothing | vllm sglang"),
        without(
            "no_block_size", "weight_block_size",
            "quantization_config.weight_block_size must be [128,128]; found nothing | vllm sglang trtllm"),
        with("other_block_size", "weight_block_size", {32, 32},
             "quantization_config.weight_block_size must be [128,128]; found [32,32] | vllm sglang trtllm"),
        without("no_moe_quant_algo", "moe_quant_algo",
                "quantization_config.moe_quant_algo must be \"NVFP4\"; found nothing | vllm sglang"),
        without("no_quant_algo", "quant_algo",
                "quantization_config.quant_algo must be \"MIXED_PRECISION\"; found nothing | sglang"),
        without("no_group_size", "group_size",
                "quantization_config.group_size must be 16; found nothing | sglang"),
        with("nested", "quantization", Json::object(),
             "quantization_config must not hold a nested `quantization` | vllm trtllm"),
        with("kv_cache", "kv_cache_quant_algo", "FP8",
             "quantization_config.kv_cache_quant_algo must be null; found \"FP8\" | sglang"),
        without("no_ignore", "ignore", "quantization_config.ignore must match mtp.0.ffn.experts | vllm"),
        with("ignore_text", "ignore", "mtp.*",
             "quantization_config.ignore must be a list of patterns | vllm sglang\n"
             "quantization_config.ignore must match mtp.0.ffn.experts | vllm"),
        with("ignore_layer", "ignore", {"mtp.*", "layers.1.*"},
             "quantization_config.ignore must not match layers.1.ffn.experts | vllm sglang"),
        with("ignore_mapped_layer", "ignore", {"mtp.*", "model.layers.0.*"},
             "quantization_config.ignore must not match model.layers.0.mlp.experts | sglang"),
        with("fp8_exclusion", "modules_to_not_convert", {"lm_head", "layers.0.attn"},
             "quantization_config.modules_to_not_convert must not name quantized modules; found "
             "\"layers.0.attn\" | vllm sglang trtllm"),
        Mutation{
            "no_quantization_config", [](Output& output) { output.config["quantization_config"] = 7; },
            "quantization_config.quant_method must be \"fp8\"; found nothing | vllm sglang trtllm\n"
            "quantization_config.activation_scheme must be \"dynamic\"; found nothing | vllm sglang\n"
            "quantization_config.weight_block_size must be [128,128]; found nothing | vllm sglang trtllm\n"
            "quantization_config.moe_quant_algo must be \"NVFP4\"; found nothing | vllm sglang\n"
            "quantization_config.quant_algo must be \"MIXED_PRECISION\"; found nothing | sglang\n"
            "quantization_config.group_size must be 16; found nothing | sglang\n"
            "quantization_config.ignore must match mtp.0.ffn.experts | vllm"},
        Mutation{"model_type", [](Output& output) { output.config["model_type"] = "deepseek_v3"; },
                 "model_type must be \"deepseek_v4\"; found \"deepseek_v3\" | vllm sglang trtllm"},
        Mutation{"architectures", [](Output& output) { output.config.erase("architectures"); },
                 "architectures must name DeepseekV4ForCausalLM; found nothing | sglang trtllm"},
        Mutation{"no_compress_ratios", [](Output& output) { output.config.erase("compress_ratios"); },
                 "compress_ratios must be a list with an entry for each layer; found nothing | sglang"},
        Mutation{"few_compress_ratios", [](Output& output) { output.config["compress_ratios"] = {4}; },
                 "compress_ratios must be a list with an entry for each layer; found 1 entries | sglang"},
        Mutation{"no_compress_rope_theta", [](Output& output) { output.config.erase("compress_rope_theta"); },
                 "compress_rope_theta must be a number; found nothing | sglang"},
        with("fp8_exclusion_by_its_other_name", "ignored_layers", {"layers.0.attn"},
             "quantization_config.ignored_layers must not name quantized modules; found "
             "\"layers.0.attn\" | vllm sglang trtllm"),
        Mutation{"expert_dtype", [](Output& output) { output.config["expert_dtype"] = "fp8"; },
                 "expert_dtype must be \"fp4\" or absent; found \"fp8\" | vllm"}),
    mutation_name);

INSTANTIATE_TEST_SUITE_P(
    Manifest, EnginesBroken,
    ::testing::Values(
        Mutation{"quant_algo",
                 [](Output& output) { output.hf_quant_config["quantization"]["quant_algo"] = "NVFP4"; },
                 "hf_quant_config.json quantization.quant_algo must be \"MIXED_PRECISION\"; found \"NVFP4\" "
                 "| trtllm"},
        Mutation{"quantized_layers",
                 [](Output& output) { output.hf_quant_config["quantization"].erase("quantized_layers"); },
                 "hf_quant_config.json quantization.quantized_layers must be an object | trtllm"},
        Mutation{"group_size",
                 [](Output& output) { output.hf_quant_config["quantization"]["group_size"] = 32; },
                 "hf_quant_config.json quantization.group_size must be 16; found 32 | trtllm"},
        Mutation{"flat", [](Output& output) { output.hf_quant_config = nullptr; },
                 "hf_quant_config.json must be present: without it, only producer modelopt is recognised | "
                 "trtllm"},
        Mutation{"flat_by_modelopt",
                 [](Output& output) {
                   output.hf_quant_config = nullptr;
                   output.quantization()["producer"]["name"] = "modelopt";
                 },
                 ""}),
    mutation_name);

INSTANTIATE_TEST_SUITE_P(
    Tensors, EnginesBroken,
    ::testing::Values(
        Mutation{"no_input_scale",
                 [](Output& output) { output.remove("layers.0.ffn.experts.1.w2.input_scale"); },
                 "layers.0.ffn.experts.1.w2.input_scale must be present | vllm sglang trtllm"},
        Mutation{"i8",
                 [](Output& output) { output.at("layers.0.ffn.experts.0.w1.weight").dtype = Dtype::kI8; },
                 "layers.0.ffn.experts.0.w1.weight must be U8; found I8 | trtllm"},
        Mutation{
            "scale_as_bytes",
            [](Output& output) { output.at("layers.1.ffn.experts.0.w3.weight_scale").dtype = Dtype::kU8; },
            "layers.1.ffn.experts.0.w3.weight_scale must be F8_E4M3; found U8 | vllm sglang trtllm"},
        Mutation{
            "half_scale",
            [](Output& output) {
              output.at("layers.1.ffn.experts.0.w3.weight_scale").shape = {64, 2};
            },
            "layers.1.ffn.experts.0.w3.weight_scale must be [out, in/16] of weight [64, 32]; found [64, 2] | "
            "vllm sglang trtllm"},
        Mutation{"two_values",
                 [](Output& output) { output.at("layers.1.ffn.experts.0.w3.weight_scale_2").shape = {2}; },
                 "layers.1.ffn.experts.0.w3.weight_scale_2 must hold one value; found shape [2] | vllm "
                 "sglang trtllm"},
        Mutation{"input_scale_of_two_values",
                 [](Output& output) { output.at("layers.1.ffn.experts.0.w3.input_scale").shape = {2}; },
                 "layers.1.ffn.experts.0.w3.input_scale must hold one value; found shape [2] | vllm sglang "
                 "trtllm"},
        Mutation{
            "input_scale_in_bf16",
            [](Output& output) { output.at("layers.1.ffn.experts.0.w3.input_scale").dtype = Dtype::kBF16; },
            "layers.1.ffn.experts.0.w3.input_scale must be F32; found BF16 | vllm sglang trtllm"},
        Mutation{"no_weight_scale_2",
                 [](Output& output) { output.remove("layers.0.ffn.experts.1.w2.weight_scale_2"); },
                 "layers.0.ffn.experts.1.w2.weight_scale_2 must be present | vllm sglang trtllm"},
        Mutation{"draft_fp8",
                 [](Output& output) {
                   output.at("mtp.0.ffn.experts.0.w1.weight") = {
                       .name = "mtp.0.ffn.experts.0.w1.weight", .dtype = Dtype::kF8E4M3, .shape = {64, 64}};
                   output.at("mtp.0.ffn.experts.0.w1.scale").shape = {1, 1};
                 },
                 "mtp.0.ffn.experts is ignored, so it must be MXFP4 | vllm\n"
                 "mtp.0.ffn.experts must be MXFP4 | sglang"},
        Mutation{"draft_bf16",
                 [](Output& output) {
                   output.at("mtp.0.ffn.experts.0.w1.weight").dtype = Dtype::kBF16;
                   output.remove("mtp.0.ffn.experts.0.w1.scale");
                 },
                 "mtp.0.ffn.experts is ignored, so it must be MXFP4 | vllm\n"
                 "mtp.0.ffn.experts must be MXFP4 | sglang"},
        Mutation{"left_scale",
                 [](Output& output) {
                   output.add("layers.0.ffn.experts.0.w1.scale", Dtype::kF8E8M0, {64, 2});
                 },
                 "layers.0.ffn.experts.0.w1.scale must be absent: it overwrites half of weight_scale | vllm\n"
                 "layers.0.ffn.experts.0.w1.scale must be absent: it clashes with weight_scale | trtllm"},
        Mutation{"unknown_suffix",
                 [](Output& output) { output.add("layers.0.ffn.experts.0.w1.bias", Dtype::kF32, {64}); },
                 "layers.0.ffn.experts.0.w1.bias must be absent: no such parameter | vllm"},
        Mutation{"no_projection",
                 [](Output& output) {
                   std::erase_if(output.tensors, [](const Tensor& tensor) {
                     return tensor.name.starts_with("layers.0.ffn.experts.1.w2.");
                   });
                 },
                 "layers.0.ffn.experts.1.w2.weight must be present | vllm sglang trtllm\n"
                 "layers.0.ffn.experts.1.w2.weight_scale must be present | vllm sglang trtllm\n"
                 "layers.0.ffn.experts.1.w2.weight_scale_2 must be present | vllm sglang trtllm\n"
                 "layers.0.ffn.experts.1.w2.input_scale must be present | vllm sglang trtllm"},
        Mutation{"no_expert",
                 [](Output& output) {
                   std::erase_if(output.tensors, [](const Tensor& tensor) {
                     return tensor.name.starts_with("layers.0.ffn.experts.1.");
                   });
                 },
                 "layers.0.ffn.experts must hold the config's 2 experts; found 1 | vllm sglang trtllm"},
        Mutation{
            "no_layer",
            [](Output& output) {
              std::erase_if(output.tensors,
                            [](const Tensor& tensor) { return tensor.name.starts_with("layers.1."); });
            },
            "num_hidden_layers must be the number of layers with experts, 1; found 2 | vllm sglang trtllm"},
        Mutation{"draft_nvfp4", [](Output& output) { output.add_expert("mtp.0.ffn.experts.0.w2"); },
                 "mtp.0.ffn.experts is ignored, so it must be MXFP4 | vllm\n"
                 "mtp.0.ffn.experts must be MXFP4 | sglang"}),
    mutation_name);

// What a recipe makes of a module that the release stores in FP8.
void make_nvfp4(Output& output, const std::string& module) {
  output.remove(module + ".weight");
  output.add_expert(module);
}

INSTANTIATE_TEST_SUITE_P(
    Formats, EnginesBroken,
    ::testing::Values(
        Mutation{
            "nvfp4_attention",
            [](Output& output) {
              make_nvfp4(output, "layers.0.attn.wq_a");
              make_nvfp4(output, "layers.1.attn.wq_a");
              output.add_expert("layers.1.ffn.shared_experts.w1");
            },
            "all but the routed experts must be stored as in the release; found 3 other modules: attn.wq_a "
            "(NVFP4), ffn.shared_experts.w1 (NVFP4) | vllm sglang trtllm"},
        Mutation{
            "bf16_attention",
            [](Output& output) {
              output.at("layers.0.attn.wq_a.weight").dtype = Dtype::kBF16;
              output.quantization()["modules_to_not_convert"] = {"layers.0.attn.wq_a"};
            },
            "all but the routed experts must be stored as in the release; found 1 other module: attn.wq_a "
            "(BF16) | vllm sglang trtllm"},
        Mutation{
            "fp8_with_one_scale",
            [](Output& output) { output.add("layers.0.attn.wq_a.weight_scale", Dtype::kF32, {}); },
            "all but the routed experts must be stored as in the release; found 1 other module: attn.wq_a "
            "(FP8 with one scale) | vllm sglang trtllm"},
        Mutation{
            "weight_only_experts",
            [](Output& output) {
              std::erase_if(output.tensors,
                            [](const Tensor& tensor) { return tensor.name.ends_with(".input_scale"); });
            },
            "NVFP4 experts must have an input_scale; none is there: layers.0.ffn.experts and 1 more layer | "
            "vllm sglang trtllm"},
        Mutation{"bf16_experts",
                 [](Output& output) {
                   std::erase_if(output.tensors, [](const Tensor& tensor) {
                     return tensor.name.starts_with("layers.1.ffn.experts.") &&
                            !tensor.name.ends_with(".weight");
                   });
                   for (Tensor& tensor : output.tensors) {
                     if (tensor.name.starts_with("layers.1.ffn.experts.")) tensor.dtype = Dtype::kBF16;
                   }
                 },
                 "routed experts must be NVFP4, MXFP4 or FP8 in blocks: layers.1.ffn.experts | vllm sglang "
                 "trtllm"},
        Mutation{"one_layer_kept",
                 [](Output& output) {
                   output.keep_experts("layers.1.");
                   output.quantization()["ignore"].push_back("layers.1.ffn.experts");
                 },
                 "layers.1.ffn.experts must be NVFP4 as other layers' experts are | sglang trtllm"},
        Mutation{"one_layer_kept_and_not_ignored", [](Output& output) { output.keep_experts("layers.1."); },
                 "quantization_config.ignore must match layers.1.ffn.experts, which is not NVFP4 | vllm\n"
                 "layers.1.ffn.experts must be NVFP4 as other layers' experts are | sglang trtllm"},
        Mutation{"all_as_in_the_release",
                 [](Output& output) {
                   output.keep_experts("layers.");
                   output.hf_quant_config = nullptr;
                   for (const char* key : {"moe_quant_algo", "quant_algo", "group_size", "ignore"})
                     output.quantization().erase(key);
                 },
                 ""}),
    mutation_name);

// ---- docs/engines.md ----

// Each rule of the page's tables, by its first cell, and the mutations above that break it.
const std::map<std::string, std::vector<std::string>>& broken_rules() {
  static const std::map<std::string, std::vector<std::string>> rules = {
      {"`X.weight` is there, one for every expert and layer of the config",
       {"no_expert", "no_layer", "no_projection"}},
      {"`X.weight` is U8", {"i8"}},
      {"`X.weight_scale` is F8_E4M3", {"scale_as_bytes"}},
      {"`X.weight_scale` is [out, in/16]", {"half_scale"}},
      {"`X.weight_scale_2`, `X.input_scale` are F32 with one value, `[]` or `[1]`",
       {"two_values", "no_weight_scale_2", "input_scale_of_two_values", "input_scale_in_bf16"}},
      {"`X.input_scale` is there", {"no_input_scale"}},
      {"no `X.scale`", {"left_scale"}},
      {"no other suffix of X", {"unknown_suffix"}},
      {"draft experts (`mtp.K.ffn.experts`) are MXFP4", {"draft_nvfp4", "draft_fp8", "draft_bf16"}},
      {"all but the routed experts is as the release stores it",
       {"nvfp4_attention", "bf16_attention", "fp8_with_one_scale"}},
      {"NVFP4 experts have an `input_scale` (no W4A16)", {"weight_only_experts"}},
      {"routed experts are NVFP4, MXFP4 or FP8 in blocks", {"bf16_experts"}},
      {"all layers' experts are NVFP4, or none", {"one_layer_kept", "one_layer_kept_and_not_ignored"}},
      {"`model_type` is `deepseek_v4`", {"model_type"}},
      {"`architectures` names `DeepseekV4ForCausalLM`", {"architectures"}},
      {"`expert_dtype` is `fp4` or absent", {"expert_dtype"}},
      {"`compress_ratios` is a list with an entry for each layer",
       {"no_compress_ratios", "few_compress_ratios"}},
      {"`compress_rope_theta` is a number", {"no_compress_rope_theta"}},
      {"`qc.quant_method` is `fp8`", {"no_quant_method", "modelopt_method"}},
      {"`qc.activation_scheme` is `dynamic`", {"no_activation_scheme"}},
      {"`qc.weight_block_size` is [128, 128]", {"no_block_size", "other_block_size"}},
      {"`qc.moe_quant_algo` is `NVFP4`", {"no_moe_quant_algo"}},
      {"`qc.quant_algo` is `MIXED_PRECISION`", {"no_quant_algo"}},
      {"`qc.group_size` is 16, at the top", {"no_group_size"}},
      {"`qc.ignore` is a list whose patterns match MXFP4 draft experts", {"no_ignore", "ignore_text"}},
      {"`qc.ignore` matches no `layers.N.ffn.experts`", {"ignore_layer"}},
      {"`qc.ignore` matches no `model.layers.N.mlp.experts`", {"ignore_mapped_layer"}},
      {"`qc.modules_to_not_convert`, `qc.ignored_layers` name no quantized module",
       {"fp8_exclusion", "fp8_exclusion_by_its_other_name"}},
      {"no nested `qc.quantization`", {"nested"}},
      {"`qc.kv_cache_quant_algo` is null", {"kv_cache"}},
      {"`quantization.quant_algo` is `MIXED_PRECISION`", {"quant_algo"}},
      {"`quantization.group_size` is 16", {"group_size"}},
      {"`quantization.quantized_layers` is an object (its names do not matter)", {"quantized_layers"}},
      {"without the file: these three in `qc`, and `qc.producer.name` is `modelopt`", {"flat"}},
  };
  return rules;
}

// First cells of the rows of the page's tables whose head says "rule", up to the first colon; a row that goes
// on with the rule before it has an empty one. The page's part on values is for `verify` alone.
std::set<std::string> documented_rules() {
  std::ifstream page(std::string(NIBBLECAST_SOURCE_DIR) + "/docs/engines.md");
  std::set<std::string> rules;
  bool is_table = false;
  for (std::string line; std::getline(page, line) && line != "## Values";) {
    if (!line.starts_with("| ")) {
      is_table &= line.starts_with("|");
      continue;
    }
    std::string rule = line.substr(2, line.find(" |") - 2);
    if (rule == "rule") {
      is_table = true;
      continue;
    }
    if (rule.starts_with("all but the routed experts")) rule = rule.substr(0, rule.find(':'));
    if (is_table && !rule.empty() && rule[0] != '|') rules.insert(rule);
  }
  return rules;
}

TEST(Engines, EveryRuleOfThePageIsBrokenByATest) {
  std::set<std::string> mutations, listed;
  const ::testing::UnitTest& all = *::testing::UnitTest::GetInstance();
  for (int suite = 0; suite < all.total_test_suite_count(); ++suite) {
    const ::testing::TestSuite& tests = *all.GetTestSuite(suite);
    for (int test = 0; test < tests.total_test_count(); ++test) {
      const std::string name = tests.GetTestInfo(test)->name();
      mutations.insert(name.substr(name.rfind('/') + 1));
    }
  }
  for (const auto& [rule, names] : broken_rules()) {
    listed.insert(rule);
    for (const std::string& name : names) EXPECT_TRUE(mutations.contains(name)) << rule << ": " << name;
  }
  EXPECT_THAT(documented_rules(), ::testing::ContainerEq(listed));
}

TEST(Engines, FormatsWithoutALoaderNameTheRecipeThatHasOne) {
  Output output;
  make_nvfp4(output, "layers.0.attn.wq_a");
  const std::vector<Breach> breaches = output.check();
  ASSERT_EQ(breaches.size(), 3u);
  for (const Breach& breach : breaches) EXPECT_THAT(breach.remedy, HasSubstr("nvfp4_experts_only"));
  EXPECT_EQ(engine_release(breaches[0].engine), "vLLM 0.33.0");
}

TEST(Engines, AnyJsonIsJudged) {
  for (const Json& odd : {Json(), Json(3), Json("text"), Json::array({1, 2}), Json::object()}) {
    EXPECT_FALSE(check_engine_contracts(odd, odd, {}).empty());
    Output output;
    output.config["quantization_config"] = odd;
    output.hf_quant_config = {{"quantization", odd}};
    EXPECT_THAT(output.breaches(), HasSubstr("quant_method"));
    output = Output();
    for (const char* key : {"ignore", "modules_to_not_convert", "producer"}) output.quantization()[key] = odd;
    output.check();
  }
}

// Expected values from Python 3.11's fnmatch.fnmatchcase.
TEST(Glob, MatchesAsPython) {
  const struct {
    const char *pattern, *text;
    bool matches;
  } cases[] = {
      {"", "", true},
      {"", "a", false},
      {"*", "", true},
      {"*", "a.b/c", true},
      {"mtp.*", "mtp.0", true},
      {"mtp.*", "mtp", false},
      {"*.attn.*", "a.attn.b", true},
      {"a*b*c", "aXbYbZc", true},
      {"a*b*c", "aXbYbZ", false},
      {"?", "a", true},
      {"?", "", false},
      {"??", "a", false},
      {"[ab]c", "bc", true},
      {"[!ab]c", "bc", false},
      {"[!ab]c", "xc", true},
      {"[a-c]", "b", true},
      {"[a-c]", "d", false},
      {"[]]", "]", true},
      {"[]", "[]", true},
      {"[!]", "[!]", true},
      {"[a", "[a", true},
      {"[^a]", "a", true},
      {"[^a]", "b", false},
      {"\\*", "\\x", true},
      {"\\*", "*", false},
      {"[a-]", "-", true},
      {"*[0-9]", "layer7", true},
  };
  for (const auto& one : cases) {
    EXPECT_EQ(glob_match(one.pattern, one.text), one.matches) << one.pattern << " on " << one.text;
  }
}

TEST(Glob, ManyStarsTakeNoTime) {
  std::string pattern;
  for (int star = 0; star < 1000; ++star) pattern += "*a";
  EXPECT_FALSE(glob_match(pattern + "b", std::string(2000, 'a')));
}

}  // namespace
}  // namespace nibblecast
