#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "checkpoint/checkpoint.h"
#include "model/families/deepseek_v4/tensors.h"
#include "model/family.h"
#include "testing.h"

namespace nibblecast {
namespace {

void add(std::vector<Tensor>& all, const DeepseekV4Config& config, const std::vector<ModelTensor>& table) {
  for (const ModelTensor& tensor : table) {
    for (Tensor& stored : release_tensors(config, tensor)) all.push_back(std::move(stored));
  }
}

std::vector<Tensor> whole_model(const DeepseekV4Config& config, bool with_mtp = true) {
  std::vector<Tensor> all;
  add(all, config, global_tensors(config));
  for (uint64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    add(all, config, layer_tensors(config, layer));
  }
  if (with_mtp) add(all, config, mtp_tensors(config));
  return all;
}

uint64_t bytes_of(const std::vector<Tensor>& tensors) {
  uint64_t sum = 0;
  for (const Tensor& tensor : tensors) sum += tensor.size_bytes;
  return sum;
}

std::vector<Tensor> one_layer(const DeepseekV4Config& config, uint64_t layer) {
  std::vector<Tensor> all;
  add(all, config, layer_tensors(config, layer));
  return all;
}

// The figures are those of the releases: tensor counts and bytes per layer kind and in all.
TEST(DeepseekV4Tensors, ProHasTheTensorsAndBytesOfTheRelease) {
  const auto config = DeepseekV4Config::parse(preset_config("v4-pro"), "v4-pro");
  const auto all = whole_model(config);
  EXPECT_EQ(all.size(), 145'116u);
  EXPECT_EQ(bytes_of(all), 864'704'792'696u);
  EXPECT_EQ(bytes_of(whole_model(config, false)), 850'748'205'004u);
  EXPECT_EQ(one_layer(config, 3).size(), 2337u);
  EXPECT_EQ(one_layer(config, 4).size(), 2344u);
  EXPECT_EQ(bytes_of(one_layer(config, 0)), 13'874'466'328u);
  EXPECT_EQ(bytes_of(one_layer(config, 2)), 13'909'746'200u);
  EXPECT_EQ(bytes_of(one_layer(config, 3)), 13'868'262'424u);
  EXPECT_EQ(bytes_of(one_layer(config, 4)), 13'903'542'296u);
}

TEST(DeepseekV4Tensors, FlashHasTheTensorsAndBytesOfTheRelease) {
  const auto config = DeepseekV4Config::parse(preset_config("v4-flash"), "v4-flash");
  const auto all = whole_model(config);
  EXPECT_EQ(all.size(), 69'187u);
  EXPECT_EQ(bytes_of(all), 159'609'485'896u);
  EXPECT_EQ(whole_model(config, false).size(), 67'612u);
  EXPECT_EQ(bytes_of(whole_model(config, false)), 156'015'698'140u);
  EXPECT_EQ(one_layer(config, 0).size(), 1565u);
  EXPECT_EQ(bytes_of(one_layer(config, 0)), 3'566'148'952u);
  EXPECT_EQ(bytes_of(one_layer(config, 2)), 3'596'055'640u);
  EXPECT_EQ(bytes_of(one_layer(config, 3)), 3'568'596'312u);
  EXPECT_EQ(bytes_of(one_layer(config, 4)), 3'589'851'224u);
}

TEST(DeepseekV4Tensors, NamesAreUnique) {
  const auto config = DeepseekV4Config::parse(preset_config("v4-tiny"), "v4-tiny");
  std::set<std::string> names;
  for (const Tensor& tensor : whole_model(config))
    EXPECT_TRUE(names.insert(tensor.name).second) << tensor.name;
}

TEST(DeepseekV4Tensors, TableAndARealCheckpointAgreeBothWays) {
  SKIP_WITHOUT_SHARED_MODEL(folder, "tiny-v4");
  const Checkpoint checkpoint = Checkpoint::open(folder, system_files());
  const auto config = DeepseekV4Config::parse(checkpoint.config(), "config.json");
  std::map<std::string, Tensor> table;
  for (Tensor& tensor : whole_model(config)) table[tensor.name] = std::move(tensor);
  EXPECT_EQ(checkpoint.tensors().size(), table.size());
  for (const Tensor& found : checkpoint.tensors()) {
    const auto expected = table.find(found.name);
    ASSERT_NE(expected, table.end()) << found.name;
    EXPECT_EQ(found.dtype, expected->second.dtype) << found.name;
    EXPECT_EQ(found.shape, expected->second.shape) << found.name;
    EXPECT_EQ(found.size_bytes, expected->second.size_bytes) << found.name;
  }
}

TEST(DeepseekV4Tensors, SidesThatAreNoMultipleOfATileRoundUp) {
  auto json = preset_config("v4-tiny");
  json["q_lora_rank"] = 96;
  const auto config = DeepseekV4Config::parse(json, "config.json");
  const auto stored = release_tensors(config, {"layers.0.attn.wq_a", Storage::kFp8Block, {96, 256}});
  ASSERT_EQ(stored.size(), 2u);
  EXPECT_EQ(stored[1].name, "layers.0.attn.wq_a.scale");
  EXPECT_EQ(stored[1].shape, (Shape{1, 2}));
}

TEST(DeepseekV4Tensors, ExpertNamesParse) {
  EXPECT_EQ(parse_expert_name("layers.3.ffn.experts.17.w2"), (ExpertName{3, 17, 2}));
  EXPECT_EQ(parse_expert_name("layers.0.ffn.experts.0.w1"), (ExpertName{0, 0, 1}));
  EXPECT_EQ(expert_module(60, 383, 3), "layers.60.ffn.experts.383.w3");
  for (const char* other :
       {"", "layers.", "layers.3", "layers.3.ffn.experts.", "layers.3.ffn.experts.17",
        "layers.3.ffn.experts.17.w", "layers.3.ffn.experts.17.w0", "layers.3.ffn.experts.17.w4",
        "layers.3.ffn.experts.17.w22", "layers.3.ffn.experts.17.w2.weight", "layers.03.ffn.experts.17.w2",
        "layers.3.ffn.experts.+1.w2", "layers.-3.ffn.experts.17.w2", "layers.3.ffn.shared_experts.w2",
        "mtp.0.ffn.experts.17.w2", "model.layers.3.ffn.experts.17.w2",
        "layers.99999999999999999999.ffn.experts.1.w1"}) {
    EXPECT_FALSE(parse_expert_name(other)) << other;
  }
}

}  // namespace
}  // namespace nibblecast
