#include "pipeline/synth.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "base/hash.h"
#include "base/parallel.h"
#include "calibration/tokenizer.h"
#include "checkpoint/checkpoint.h"
#include "formats/bf16.h"
#include "model/families/deepseek_v4/synth.h"
#include "model/families/deepseek_v4/tensors.h"
#include "model/family.h"
#include "model/forward_testing.h"
#include "pipeline/synth_content.h"
#include "pipeline/synth_side_files.h"
#include "testing.h"

namespace nibblecast {
namespace {

using Files = std::map<std::string, std::string>;  // name -> hash

Files hashes(const std::filesystem::path& folder) {
  Files result;
  for (const std::string& name : system_files().list(folder)) {
    Hash hash;
    hash.add(read_text(system_files(), folder / name, 1 << 30));
    result[name] = hash.hex();
  }
  return result;
}

Files make_tiny(const SynthOptions& options, size_t threads = 2) {
  testing::TemporaryFolder folder;
  const ThreadLimit limit(threads);
  synthesize(preset_config("v4-tiny"), "v4-tiny", options, folder.path() / "out", system_files());
  return hashes(folder.path() / "out");
}

TEST(Synth, BytesDependOnTheSeedAlone) {
  const Files once = make_tiny({.seed = 3});
  EXPECT_EQ(make_tiny({.seed = 3}), once);
  EXPECT_EQ(make_tiny({.seed = 3}, /*threads=*/1), once);
  EXPECT_EQ(make_tiny({.seed = 3}, /*threads=*/7), once);
  EXPECT_NE(make_tiny({.seed = 4}), once);
}

TEST(Synth, HasTheFilesOfARelease) {
  const Files files = make_tiny({});
  std::vector<std::string> names;
  for (const auto& [name, hash] : files) names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{
                       "README.md", "config.json", "generation_config.json",
                       "model-00001-of-00008.safetensors", "model-00002-of-00008.safetensors",
                       "model-00003-of-00008.safetensors", "model-00004-of-00008.safetensors",
                       "model-00005-of-00008.safetensors", "model-00006-of-00008.safetensors",
                       "model-00007-of-00008.safetensors", "model-00008-of-00008.safetensors",
                       "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"}));
}

// ---- what one checkpoint holds ----

class SynthTiny : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new testing::TemporaryFolder;
    synthesize(preset_config("v4-tiny"), "v4-tiny", {.seed = 1}, folder_->path(), system_files());
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }
  SynthTiny()
      : checkpoint(Checkpoint::open(folder_->path(), system_files())),
        config(DeepseekV4Config::parse(checkpoint.config(), "config.json")),
        reader(checkpoint) {}

  std::vector<uint8_t> bytes(const Tensor& tensor) {
    std::vector<uint8_t> result(tensor.size_bytes);
    reader.read(tensor, 0, std::as_writable_bytes(std::span(result)));
    return result;
  }
  std::vector<uint8_t> bytes(const std::string& name) { return bytes(checkpoint.at(name)); }
  std::vector<float> values(const Tensor& tensor) {
    const auto raw = bytes(tensor);
    std::vector<float> result(*element_count(tensor.shape));
    for (size_t i = 0; i < result.size(); ++i) {
      if (tensor.dtype == Dtype::kF32) {
        std::memcpy(&result[i], &raw[4 * i], 4);
      } else {
        bf16 value;
        std::memcpy(&value, &raw[2 * i], 2);
        result[i] = to_float(value);
      }
    }
    return result;
  }

  static testing::TemporaryFolder* folder_;
  const Checkpoint checkpoint;
  const DeepseekV4Config config;
  TensorReader reader;
};
testing::TemporaryFolder* SynthTiny::folder_ = nullptr;

TEST_F(SynthTiny, HoldsTheWholeTableInReleaseOrder) {
  std::vector<ModelTensor> table = global_tensors(config);
  for (uint64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (auto& tensor : layer_tensors(config, layer)) table.push_back(tensor);
  }
  for (auto& tensor : mtp_tensors(config)) table.push_back(tensor);
  size_t count = 0;
  for (const ModelTensor& tensor : table) {
    for (const Tensor& stored : release_tensors(config, tensor)) {
      EXPECT_EQ(checkpoint.at(stored.name).shape, stored.shape) << stored.name;
      EXPECT_EQ(checkpoint.at(stored.name).dtype, stored.dtype) << stored.name;
      ++count;
    }
  }
  EXPECT_EQ(checkpoint.tensors().size(), count);
  EXPECT_EQ(checkpoint.index_metadata().at("total_size"), checkpoint.data_bytes());
  const auto shard = [&](const char* name) { return checkpoint.shards()[checkpoint.at(name).shard].name; };
  EXPECT_EQ(shard("embed.weight"), "model-00001-of-00008.safetensors");
  EXPECT_EQ(shard("layers.0.attn.wkv.weight"), "model-00002-of-00008.safetensors");
  EXPECT_EQ(shard("layers.4.attn.wkv.weight"), "model-00006-of-00008.safetensors");
  EXPECT_EQ(shard("head.weight"), "model-00007-of-00008.safetensors");
  EXPECT_EQ(shard("hc_head_fn"), "model-00007-of-00008.safetensors");
  EXPECT_EQ(shard("mtp.0.e_proj.weight"), "model-00008-of-00008.safetensors");
  const Tensor* before = nullptr;
  for (const Tensor& tensor : checkpoint.tensors()) {
    if (before != nullptr && before->shard == tensor.shard) {
      EXPECT_TRUE(before->dtype > tensor.dtype ||
                  (before->dtype == tensor.dtype && before->name < tensor.name))
          << before->name << " before " << tensor.name;
    }
    before = &tensor;
  }
}

TEST_F(SynthTiny, OrderOfTensorsIsThatOfTheSafetensorsLibrary) {
  SKIP_WITHOUT_SHARED_MODEL(model, "tiny-v4");
  const Checkpoint real = Checkpoint::open(model, system_files());
  const Tensor* before = nullptr;
  for (const Tensor& tensor : real.tensors()) {
    if (before != nullptr && before->shard == tensor.shard) {
      EXPECT_TRUE(before->dtype > tensor.dtype ||
                  (before->dtype == tensor.dtype && before->name < tensor.name))
          << before->name << " before " << tensor.name;
    }
    before = &tensor;
  }
}

TEST_F(SynthTiny, ValuesAreFiniteAndOfTheirMagnitude) {
  for (const Tensor& tensor : checkpoint.tensors()) {
    if (tensor.dtype != Dtype::kBF16 && tensor.dtype != Dtype::kF32) continue;
    double sum = 0;
    const auto all = values(tensor);
    for (const float value : all) {
      ASSERT_TRUE(std::isfinite(value)) << tensor.name;
      sum += double{value} * value;
    }
    const double rms = std::sqrt(sum / static_cast<double>(all.size()));
    EXPECT_TRUE(rms > 1e-3 && rms < 1.5) << tensor.name << ": rms " << rms;
    if (!tensor.name.ends_with("norm.weight")) continue;
    EXPECT_TRUE(std::all_of(all.begin(), all.end(), [](float v) { return v >= 0.75f && v <= 1.25f; }))
        << tensor.name;
  }
}

TEST_F(SynthTiny, CodesAndScalesAreValid) {
  for (const Tensor& tensor : checkpoint.tensors()) {
    const bool is_e4m3 = tensor.dtype == Dtype::kF8E4M3, is_scale = tensor.dtype == Dtype::kF8E8M0;
    if (!is_e4m3 && !is_scale) continue;
    const auto all = bytes(tensor);
    if (is_e4m3) {
      EXPECT_TRUE(std::none_of(all.begin(), all.end(), [](uint8_t code) { return (code & 0x7f) == 0x7f; }))
          << tensor.name;
      continue;
    }
    const uint8_t most = *std::max_element(all.begin(), all.end());
    for (const uint8_t code : all) {
      EXPECT_TRUE(code != 255 && (code == 0 || code + 3 >= most)) << tensor.name << ": " << int{code};
    }
  }
}

TEST_F(SynthTiny, BlocksWithAZeroScaleAreZeroAndRare) {
  uint64_t blocks = 0, zero = 0;
  for (const Tensor& tensor : checkpoint.tensors()) {
    if (tensor.dtype != Dtype::kI8) continue;
    const std::string module = tensor.name.substr(0, tensor.name.size() - std::string(".weight").size());
    const auto nibbles = bytes(tensor);
    const auto scales = bytes(module + ".scale");
    ASSERT_EQ(scales.size() * 16, nibbles.size());
    for (size_t block = 0; block < scales.size(); ++block, ++blocks) {
      const bool all_zero =
          std::all_of(&nibbles[16 * block], &nibbles[16 * block] + 16, [](uint8_t b) { return b == 0; });
      EXPECT_EQ(scales[block] == 0, all_zero) << tensor.name << " block " << block;
      zero += all_zero;
    }
  }
  EXPECT_GT(zero, 0u);
  EXPECT_LT(zero, blocks / 1000);
}

TEST_F(SynthTiny, HashRoutingIsBalancedOverDistinctExperts) {
  for (const std::string layer : {"0", "1"}) {
    const auto raw = bytes("layers." + layer + ".ffn.gate.tid2eid");
    std::vector<int64_t> ids(raw.size() / 8);
    std::memcpy(ids.data(), raw.data(), raw.size());
    std::vector<uint64_t> count(config.n_routed_experts);
    const uint64_t k = config.num_experts_per_tok;
    for (size_t token = 0; token < ids.size() / k; ++token) {
      std::set<int64_t> row(ids.begin() + token * k, ids.begin() + (token + 1) * k);
      EXPECT_EQ(row.size(), k);
      for (const int64_t expert : row) ++count.at(expert);
    }
    EXPECT_LE(*std::max_element(count.begin(), count.end()),
              *std::min_element(count.begin(), count.end()) + 1);
  }
}

TEST_F(SynthTiny, TokenizerFitsTheModel) {
  const Json tokenizer = parse_json(
      read_text(system_files(), checkpoint.folder() / "tokenizer.json", 1 << 20), "tokenizer.json");
  std::set<int> ids;
  for (const auto& [text, id] : tokenizer["model"]["vocab"].items()) ids.insert(id.get<int>());
  EXPECT_EQ(ids.size(), kSynthTokens);
  EXPECT_EQ(*ids.begin(), kSynthBos);
  EXPECT_LT(static_cast<uint64_t>(*ids.rbegin()), config.vocab_size);
  const Json& vocabulary = tokenizer["model"]["vocab"];
  EXPECT_EQ(vocabulary["A"], kSynthFirstByte + 'A');
  EXPECT_EQ(vocabulary["Ġ"], kSynthFirstByte + ' ');
  EXPECT_EQ(config.bos_token_id, kSynthBos);
  EXPECT_EQ(config.eos_token_id, kSynthEos);
}

constexpr std::string_view kText =
    "The quick brown fox jumps over the lazy dog. A checkpoint of random weights has nothing to say, but it "
    "says "
    "it in the right shapes: 4,096 numbers a row, each finite, none of them large; (every expert) hears of "
    "it. "
    "Pack my box with five dozen liquor jugs! How vexingly quick daft zebras jump; 3.14159265 & 2.71828 = ?";

TEST_F(SynthTiny, ForwardPassIsFiniteAndReachesEveryExpert) {
  const Tokenizer tokenizer = Tokenizer::load(system_files(), folder_->path() / "tokenizer.json");
  std::vector<int32_t> row = tokenizer.encode(kText);
  ASSERT_EQ(row.size(), kText.size());
  for (size_t i = 0; i < row.size(); ++i) ASSERT_EQ(row[i], kSynthFirstByte + kText[i]);
  testing::Model model(folder_->path());
  DeepseekV4Forward<bf16> forward(config, {row, {row.rbegin(), row.rend()}});
  model.run(forward, [&](uint64_t layer, const LayerAmax& amax) {
    for (size_t expert = 0; expert < config.n_routed_experts; ++expert) {
      EXPECT_GT(amax.tokens[expert], 0) << "layer " << layer << " expert " << expert;
    }
    for (const auto& [tap, values] : amax.taps) {
      if (values.size() > 1) continue;  // an expert's may be small
      EXPECT_TRUE(values.at(0) > 0.1f && values[0] < 1e3f) << tap << " " << values[0];
    }
    for (const bf16 value : forward.streams())
      ASSERT_TRUE(std::fabs(to_float(value)) < 100) << "layer " << layer;
  });
  const Perplexity all = perplexity_of(model.run_head(forward));
  // Near what guessing costs, for logits of rms 2.
  EXPECT_NEAR(all.nll_sum / static_cast<double>(all.tokens), std::log(config.vocab_size) + 2, 2);
}

// ---- any part of a tensor is the same part of the whole ----

TEST(SynthContent, PartsAreThoseOfTheWhole) {
  const auto config = DeepseekV4Config::parse(preset_config("v4-tiny"), "");
  std::vector<ModelTensor> table = layer_tensors(config, 0);
  for (const ModelTensor& tensor : layer_tensors(config, 2)) table.push_back(tensor);
  for (const ModelTensor& tensor : table) {
    for (const Tensor& stored : release_tensors(config, tensor)) {
      const SynthContent content({stored, fill_of(config, tensor, stored)}, 9);
      std::vector<std::byte> whole(stored.size_bytes), parts(stored.size_bytes);
      content.fill(0, whole);
      for (size_t begin = 0, step = 1; begin < parts.size(); begin += step, step = step % 97 + 3) {
        content.fill(begin, std::span(parts).subspan(begin, std::min(step, parts.size() - begin)));
      }
      ASSERT_EQ(whole, parts) << stored.name;
    }
  }
}

// ---- parts of models, and all of one ----

TEST(Synth, LayersAreCutAndRenumbered) {
  testing::TemporaryFolder folder;
  const std::filesystem::path out = folder.path() / "out";
  synthesize(preset_config("v4-tiny"), "v4-tiny", {.layers = LayerRange{1, 3}, .experts = 3}, out,
             system_files());
  const Checkpoint checkpoint = Checkpoint::open(out, system_files());
  const auto config = DeepseekV4Config::parse(checkpoint.config(), "config.json");
  EXPECT_EQ(config.num_hidden_layers, 3u);
  EXPECT_EQ(config.compress_ratios, (std::vector<uint32_t>{128, 4, 128}));
  EXPECT_EQ(config.num_hash_layers, 1u);
  EXPECT_EQ(config.n_routed_experts, 3u);
  EXPECT_EQ(checkpoint.shards().size(), 5u);
  EXPECT_NE(checkpoint.find("layers.0.ffn.gate.tid2eid"), nullptr);
  EXPECT_NE(checkpoint.find("layers.1.ffn.gate.bias"), nullptr);
  EXPECT_NE(checkpoint.find("layers.2.ffn.experts.2.w2.weight"), nullptr);
  EXPECT_EQ(checkpoint.find("layers.3.attn_norm.weight"), nullptr);
  EXPECT_EQ(checkpoint.find("mtp.0.norm.weight"), nullptr);
}

uint64_t allocated_bytes(const std::filesystem::path& folder) {
  uint64_t sum = 0;
  for (const std::string& name : system_files().list(folder)) {
    struct stat info;
    EXPECT_EQ(stat((folder / name).c_str(), &info), 0);
    sum += static_cast<uint64_t>(info.st_blocks) * 512;
  }
  return sum;
}

TEST(Synth, WholeV4ProExistsInSomeThirtyMegabytes) {
  testing::TemporaryFolder folder;
  synthesize(preset_config("v4-pro"), "v4-pro", {.sparse = true}, folder.path(), system_files());
  const Checkpoint checkpoint = Checkpoint::open(folder.path(), system_files());
  EXPECT_EQ(checkpoint.shards().size(), 64u);
  EXPECT_EQ(checkpoint.tensors().size(), 145'116u);
  EXPECT_EQ(checkpoint.data_bytes(), 864'704'792'696u);
  EXPECT_EQ(checkpoint.index_metadata().at("total_size"), 864'704'792'696u);
  EXPECT_LT(allocated_bytes(folder.path()), 50'000'000u);
  TensorReader reader(checkpoint);
  const auto norm = reader.read(checkpoint.at("layers.60.ffn_norm.weight"));
  for (size_t i = 1; i < norm.size(); i += 2) ASSERT_EQ(norm[i], std::byte{0x3f}) << i;  // 0.75 to 1.25
}

// ---- refusals ----

TEST(Synth, AFolderThatHoldsSomethingIsRefused) {
  testing::TemporaryFolder folder;
  write_text_durably(system_files(), folder.path() / "precious", "text");
  const auto make = [&](const std::filesystem::path& out) {
    synthesize(preset_config("v4-tiny"), "v4-tiny", {}, out, system_files());
  };
  testing::expect_error(
      ErrorKind::kRefused, [&] { make(folder.path()); }, folder.path().string(), "is not an empty folder");
  testing::expect_error(
      ErrorKind::kRefused, [&] { make(folder.path() / "precious"); }, "precious");
}

TEST(Synth, LayersAndExpertsTheConfigLacksAreRefused) {
  const auto refuse = [](ErrorKind kind, const Json& config, const SynthOptions& options,
                         const std::string& part) {
    testing::TemporaryFolder folder;
    testing::expect_error(
        kind, [&] { synthesize(config, "my.json", options, folder.path() / "out", system_files()); }, part);
    EXPECT_FALSE(std::filesystem::exists(folder.path() / "out"));
  };
  const Json tiny = preset_config("v4-tiny");
  refuse(ErrorKind::kUsage, tiny, {.layers = LayerRange{0, 5}}, "A <= B < 5, found 0..5");
  refuse(ErrorKind::kUsage, tiny, {.layers = LayerRange{3, 2}}, "found 3..2");
  refuse(ErrorKind::kUsage, tiny, {.experts = 1}, "num_experts_per_tok = 2");
  refuse(ErrorKind::kUsage, tiny, {.experts = 1u << 30}, "65536");
  Json config = tiny;
  config["vocab_size"] = 100;
  refuse(ErrorKind::kBadInput, config, {}, "my.json: 'vocab_size'");
  config = tiny;
  config["num_nextn_predict_layers"] = 3;
  refuse(ErrorKind::kUnsupported, config, {}, "'num_nextn_predict_layers'");
}

}  // namespace
}  // namespace nibblecast
