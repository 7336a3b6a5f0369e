// Formats that are recognized and refused, and those that are not mistaken for one.
#include "checkpoint/quantization.h"

#include <gmock/gmock.h>

#include "testing.h"

namespace nibblecast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Stored {
  const char* name;
  Dtype dtype;
  Shape shape = {4, 4};
};

std::string foreign(const Json& config, const std::vector<Stored>& stored = {}) {
  std::vector<Tensor> tensors;
  for (const Stored& one : stored)
    tensors.push_back({.name = one.name, .dtype = one.dtype, .shape = one.shape});
  const auto found = find_foreign_format(config, tensors);
  return found ? found->text() : "";
}

Json method(const char* name) { return {{"quantization_config", {{"quant_method", name}}}}; }

TEST(ForeignFormat, IsFoundByTheNamesOfTensors) {
  const struct {
    std::vector<Stored> stored;
    const char* words;
  } cases[] = {
      {{{"a.qweight", Dtype::kI32}, {"a.scales", Dtype::kF16}}, "a.qweight: integers packed by AWQ or GPTQ"},
      {{{"a.weight", Dtype::kBF16}, {"a.qzeros", Dtype::kI32}}, "a.qzeros: integers packed by AWQ or GPTQ"},
      {{{"a.g_idx", Dtype::kI32, {4}}}, "AWQ or GPTQ"},
      {{{"mlp.experts.down_proj_qweight", Dtype::kI32}}, "AWQ or GPTQ"},
      {{{"a.weight_packed", Dtype::kI32}, {"a.weight_scale", Dtype::kBF16}},
       "integers packed in 32-bit words, as compressed-tensors stores them (pack-quantized) (I32)"},
      {{{"a.weight_packed", Dtype::kU8}, {"a.weight_scale", Dtype::kBF16}},
       "a.weight_packed: packed bytes, as compressed-tensors names them, without FP4's scales (U8)"},
      {{{"a.weight_shape", Dtype::kI64, {2}}}, "integers packed in 32-bit words"},
      {{{"a.weight_g_idx", Dtype::kI32, {4}}}, "integers in an order of activations"},
      {{{"experts.gate_up_proj_scale_inv", Dtype::kF32}},
       "experts.gate_up_proj_scale_inv: FP8 with inverse scales, of stacked experts (F32)"},
      {{{"a.weight", Dtype::kU8}, {"a.weight.absmax", Dtype::kU8}}, "bitsandbytes"},
      {{{"a.weight.quant_state.bitsandbytes__nf4", Dtype::kU8}}, "bitsandbytes"},
      {{{"a.weight", Dtype::kI8}, {"a.SCB", Dtype::kF32}}, "bitsandbytes"},
      {{{"a.W_q", Dtype::kU8}, {"a.scale", Dtype::kF16}}, "HQQ"},
      {{{"a.codes", Dtype::kI8, {4, 4, 2}}, {"a.codebooks", Dtype::kF16}}, "AQLM"},
      {{{"a.Qidxs", Dtype::kI64}}, "QuIP#"},
      {{{"a.trellis", Dtype::kI16, {4, 4, 4}}}, "ExLlama"},
      {{{"experts.down_proj_blocks", Dtype::kU8, {4, 4, 4, 16}}}, "MXFP4 in blocks, as gpt-oss stores it"},
      {{{"experts.gate_up_proj", Dtype::kU8}, {"experts.gate_up_proj_weight_scale", Dtype::kF8E4M3}},
       "stacked experts"},
      {{{"a.weight", Dtype::kU8}, {"a.pre_quant_scale", Dtype::kBF16}}, "smoothed by AWQ"},
      {{{"a.weight._data", Dtype::kI8}}, "Quanto"},
      {{{"a.weight_quantizer.scale", Dtype::kF32}}, "Quark"},
      {{{"a.weight", Dtype::kU32}, {"a.biases", Dtype::kBF16}}, "a weight of packed integers (U32)"},
      {{{"a.weight", Dtype::kI32}}, "a weight of packed integers (I32)"},
      {{{"a.new_packing", Dtype::kI16}, {"a.new_scale", Dtype::kF32}},
       "a.new_packing: integers beside scales (I16)"},
  };
  for (const auto& one : cases) EXPECT_THAT(foreign(Json::object(), one.stored), HasSubstr(one.words));
}

TEST(ForeignFormat, IsFoundByTheConfigAtAnyDepth) {
  for (const char* name : {"awq", "gptq", "bitsandbytes", "hqq", "aqlm", "quark", "mxfp4", "exl3", "torchao",
                           "auto-round", "fbgemm_fp8", "something new"}) {
    EXPECT_EQ(foreign(method(name)),
              std::string("config.json's quantization_config.quant_method is \"") + name + "\"");
    EXPECT_EQ(foreign({{"text_config", method(name)}}),
              std::string("config.json's text_config.quantization_config.quant_method is \"") + name + "\"");
  }
  EXPECT_THAT(foreign({{"vision_config", {{"blocks", Json::array({1, method("awq")})}}}}),
              HasSubstr("vision_config.blocks.1.quantization_config.quant_method"));
  EXPECT_THAT(foreign({{"compression_config", {{"format", "marlin-24"}}}}), HasSubstr("marlin-24"));
  Json tensors = method("compressed-tensors");
  tensors["quantization_config"]["format"] = "mixed-precision";
  EXPECT_EQ(foreign(tensors), "");
  tensors["quantization_config"]["config_groups"]["group_0"]["format"] = "int-quantized";
  EXPECT_THAT(foreign(tensors), HasSubstr("config_groups.group_0.format is \"int-quantized\""));
  Json modelopt = method("modelopt");
  modelopt["quantization_config"]["quant_algo"] = "W4A8_AWQ";
  EXPECT_THAT(foreign(modelopt), HasSubstr("quant_algo is \"W4A8_AWQ\""));
  EXPECT_THAT(foreign({{"quantization_config", {{"quant_method", 4}}}}), HasSubstr("quant_method is 4"));
  EXPECT_EQ(foreign(method("gptq"), {{"a.qweight", Dtype::kI32}}),
            "a.qweight: integers packed by AWQ or GPTQ (I32); config.json's "
            "quantization_config.quant_method is \"gptq\"");
}

// As Kimi-K2-Thinking's config.json has it.
Json packed_integers() {
  Json config = method("compressed-tensors");
  config["quantization_config"]["format"] = "pack-quantized";
  config["quantization_config"]["config_groups"]["group_0"] = {{"input_activations", nullptr},
                                                               {"targets", {"Linear"}},
                                                               {"weights",
                                                                {{"actorder", nullptr},
                                                                 {"block_structure", nullptr},
                                                                 {"dynamic", false},
                                                                 {"group_size", 32},
                                                                 {"num_bits", 4},
                                                                 {"observer", "minmax"},
                                                                 {"strategy", "group"},
                                                                 {"symmetric", true},
                                                                 {"type", "int"}}}};
  return config;
}

const std::vector<Stored> kPackedIntegers = {
    {"a.weight_packed", Dtype::kI32}, {"a.weight_scale", Dtype::kBF16}, {"a.weight_shape", Dtype::kI64, {2}}};

TEST(ForeignFormat, PackedIntegersAreReadAsTheConfigDescribesThem) {
  EXPECT_EQ(foreign(packed_integers(), kPackedIntegers), "");
  EXPECT_EQ(foreign({{"text_config", packed_integers()}}, kPackedIntegers), "");
  Json in_group = packed_integers();
  in_group["quantization_config"]["format"] = "mixed-precision";
  EXPECT_THAT(foreign(in_group, kPackedIntegers), HasSubstr("integers packed in 32-bit words"));
  in_group["quantization_config"]["config_groups"]["group_0"]["format"] = "pack-quantized";
  EXPECT_EQ(foreign(in_group, kPackedIntegers), "");
  const struct {
    const char* key;
    Json value;
  } kOthers[] = {{"num_bits", 8},       {"num_bits", nullptr},
                 {"symmetric", false},  {"strategy", "tensor"},
                 {"strategy", "block"}, {"dynamic", true},
                 {"actorder", "group"}, {"actorder", "static"},
                 {"dynamic", "local"},  {"block_structure", {128, 128}}};
  for (const auto& [key, value] : kOthers) {
    Json config = packed_integers();
    config["quantization_config"]["config_groups"]["group_0"]["weights"][key] = value;
    EXPECT_THAT(foreign(config, kPackedIntegers),
                HasSubstr("quantization_config.config_groups.group_0.weights." + std::string(key) + " is " +
                          value.dump()));
  }
  std::vector<Stored> with_zeros = kPackedIntegers;
  with_zeros.push_back({"a.weight_zero_point", Dtype::kI32, {1, 4}});
  EXPECT_THAT(foreign(packed_integers(), with_zeros),
              HasSubstr("a.weight_zero_point: integers with zero points"));
  with_zeros.back() = {"a.weight_g_idx", Dtype::kI32, {16}};
  EXPECT_THAT(foreign(packed_integers(), with_zeros), HasSubstr("a.weight_g_idx: integers in an order"));
}

TEST(ForeignFormat, IsNotSeenInWhatIsRead) {
  const std::vector<Stored> read = {
      {"layers.0.attn.wq_a.weight", Dtype::kF8E4M3},
      {"layers.0.attn.wq_a.scale", Dtype::kF8E8M0},
      {"layers.0.ffn.gate.weight", Dtype::kF8E4M3},
      {"layers.0.ffn.gate.weight_scale", Dtype::kF32, {}},
      {"layers.0.attn.wq_b.weight", Dtype::kF8E4M3},
      {"layers.0.attn.wq_b.weight_scale_inv", Dtype::kF32},
      {"layers.0.ffn.gate.tid2eid", Dtype::kI32},
      {"layers.1.ffn.gate.tid2eid", Dtype::kI64},
      {"layers.0.ffn.experts.0.w1.weight", Dtype::kI8},
      {"layers.0.ffn.experts.0.w1.scale", Dtype::kF8E8M0},
      {"layers.0.ffn.experts.1.w1.weight", Dtype::kU8},
      {"layers.0.ffn.experts.1.w1.weight_scale", Dtype::kF8E4M3},
      {"layers.0.ffn.experts.1.w1.weight_scale_2", Dtype::kF32, {}},
      {"layers.0.ffn.experts.1.w1.input_scale", Dtype::kF32, {}},
      {"layers.0.ffn.experts.2.w1.weight_packed", Dtype::kU8},
      {"layers.0.ffn.experts.2.w1.weight_scale", Dtype::kF8E4M3},
      {"layers.0.ffn.experts.2.w1.weight_global_scale", Dtype::kF32, {1}},
      {"layers.0.ffn.experts.2.w1.input_global_scale", Dtype::kF32, {1}},
      {"layers.0.ffn.experts.3.w1.weight_packed", Dtype::kU8},
      {"layers.0.ffn.experts.3.w1.weight_scale", Dtype::kU8},
      {"vision.blocks.0.attn.wqkv.weight", Dtype::kBF16},
      {"vision.position_ids", Dtype::kI64, {1, 577}},
      {"table", Dtype::kI32},
      {"vision.attn.relative_position_index", Dtype::kI32},
      {"vision.attn.logit_scale", Dtype::kF32, {}},
      {"quantizer.codebooks", Dtype::kF32},
      {"logit_scale", Dtype::kF32, {}},
  };
  for (const char* name : {"fp8", "modelopt", "compressed-tensors"})
    EXPECT_EQ(foreign(method(name), read), "");
  EXPECT_EQ(foreign(Json::object(), read), "");
  EXPECT_EQ(foreign({{"quantization_config", nullptr}}, read), "");
  EXPECT_EQ(foreign(3), "");
}

TEST(QuantizationSections, TheOutermostComesFirst) {
  const Json config = {{"a_config", {{"quantization_config", {{"x", 1}}}}},
                       {"quantization_config", {{"x", 2}}}};
  std::vector<std::string> names;
  for (const QuantizationSection& section : quantization_sections(config)) names.push_back(section.name);
  EXPECT_THAT(names, ElementsAre("quantization_config", "a_config.quantization_config"));
}

}  // namespace
}  // namespace nibblecast
