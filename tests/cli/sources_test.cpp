// Sources that are not what a command reads: what is there is named, and nothing is made.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <algorithm>
#include <functional>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "run_cli.h"

namespace nibblecast::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class Sources : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }

  // A checkpoint of zeros in one file.
  std::string write(const std::string& name, std::vector<Tensor> tensors, const Json& config) const {
    fs::create_directories(path(name));
    uint64_t offset = 0;
    for (Tensor& tensor : tensors) {
      tensor.offset = offset;
      tensor.size_bytes = *element_count(tensor.shape) * dtype_bytes(tensor.dtype);
      offset += tensor.size_bytes;
    }
    write_file(path(name) + "/model.safetensors",
               write_safetensors_header(tensors, {}) + std::string(offset, '\0'));
    write_file(path(name) + "/config.json", config.dump());
    return path(name);
  }

  // A copy of the tiny checkpoint whose tensors are other ones: of the same sizes, as headers only.
  std::string retold(const std::string& name, const std::function<void(Tensor&)>& edit) const {
    fs::create_directories(path(name));
    std::vector<Tensor> tensors;
    const Checkpoint source = Checkpoint::open(tiny_checkpoint(), system_files());
    for (Tensor tensor : source.tensors()) {
      edit(tensor);
      tensors.push_back(tensor);
    }
    return write(name, tensors, source.config());
  }

  // Every command that reads weights ends with `exit_code` and one line that holds `part`.
  void expect_refused(const std::string& source, int exit_code, const std::string& part) const {
    const std::vector<std::vector<std::string>> commands = {
        {"plan", source},
        {"quantize", source, path("out"), "--calib", "-"},
        {"dequantize", source, path("out")},
        {"convert", source, path("out"), "--to", "mxfp4"},
        {"calibrate", source, "--calib", "-", "-o", path("amax")},
        {"verify", source, source}};
    for (const auto& command : commands) {
      const CliResult result = run_cli(command, "{\"input_ids\": [1]}");
      EXPECT_EQ(result.exit_code, exit_code) << command[0] << ": " << result.err;
      EXPECT_THAT(result.err, HasSubstr(part)) << command[0];
      EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    }
    EXPECT_FALSE(fs::exists(path("out")));
    EXPECT_FALSE(fs::exists(path("amax")));
  }

 private:
  TemporaryFolder folder_;
};

Tensor tensor(const char* name, Dtype dtype, const Shape& shape) {
  return {.name = name, .dtype = dtype, .shape = shape};
}

// What config.json ties must be one matrix.
TEST_F(Sources, AHeadBesideATiedOneIsTheEmbedding) {
  ASSERT_EQ(run_cli({"synth", "qwen3-tiny", path("tied"), "--quiet"}).exit_code, 0);
  const Checkpoint tied = Checkpoint::open(path("tied"), system_files());
  std::vector<Tensor> tensors(tied.tensors().begin(), tied.tensors().end());
  Tensor head = tied.at("model.embed_tokens.weight");
  head.name = "lm_head.weight";
  tensors.push_back(head);
  for (const bool same : {true, false}) {
    const std::string source = write(same ? "same" : "other", tensors, tied.config());
    if (!same) {  // all is zero but the head's last rows
      std::string bytes = read_file(source + "/model.safetensors");
      std::fill_n(bytes.end() - static_cast<ptrdiff_t>(head.size_bytes / 2), head.size_bytes / 2, '\x3c');
      write_file(source + "/model.safetensors", bytes);
    }
    const CliResult plan = run_cli({"plan", source, "--input-scale", "1.0"});
    EXPECT_EQ(plan.exit_code, same ? 0 : 3) << plan.err;
    EXPECT_EQ(plan.err.find("is not the embedding, though config.json ties both") != std::string::npos,
              !same);
  }
}

// The forward pass of V4 reads BF16 alone there; what needs none takes it.
TEST_F(Sources, AnF32HeadOrEmbeddingIsRefusedBeforeAForwardPass) {
  for (const char* name : {"head.weight", "embed.weight"}) {
    const std::string source = retold(name, [&](Tensor& tensor) {
      if (tensor.name == name) tensor.dtype = Dtype::kF32;
    });
    const std::vector<std::vector<std::string>> commands = {
        {"plan", source, "--calib", "-"},
        {"quantize", source, path("out"), "--calib", "-"},
        {"calibrate", source, "--calib", "-", "-o", path("amax")},
        {"evaluate", source, "--text", "-", "--text-rows", "docs"}};
    for (const auto& command : commands) {
      const CliResult result =
          run_cli(command, "{\"input_ids\": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]}");
      EXPECT_EQ(result.exit_code, 4) << command[0] << ": " << result.err;
      EXPECT_THAT(result.err, HasSubstr("is not stored as the forward pass reads embedding and head"));
    }
    EXPECT_EQ(run_cli({"plan", source, "--input-scale", "1.0", "--engine", "none"}).exit_code, 0);
    EXPECT_FALSE(fs::exists(path("out")));
  }
}

TEST_F(Sources, ForeignFormatsAreRefusedByEveryCommandAndShownByInspect) {
  const std::string awq =
      write("awq", {tensor("m.qweight", Dtype::kI32, {384, 32}), tensor("m.scales", Dtype::kF16, {3, 256})},
            {{"quantization_config", {{"quant_method", "awq"}}}});
  const std::string words =
      "m.qweight: integers packed by AWQ or GPTQ (I32); config.json's "
      "quantization_config.quant_method is \"awq\"";
  expect_refused(awq, 4, words);
  const CliResult shown = run_cli({"inspect", awq});
  EXPECT_EQ(shown.exit_code, 0) << shown.err;
  EXPECT_THAT(shown.out, HasSubstr("not read     " + words));
  EXPECT_EQ(run_json({"inspect", awq})["foreign_format"], words);
  EXPECT_TRUE(run_json({"inspect", tiny_checkpoint().string()})["foreign_format"].is_null());

  expect_refused(write("nested", {tensor("norm.weight", Dtype::kBF16, {8})},
                       {{"text_config", {{"quantization_config", {{"quant_method", "gptq"}}}}}}),
                 4, "text_config.quantization_config.quant_method is \"gptq\"");
  expect_refused(write("stacked", {tensor("m.down_proj_scale_inv", Dtype::kF32, {8, 1, 1})},
                       {{"quantization_config", {{"quant_method", "fp8"}}}}),
                 4, "m.down_proj_scale_inv: FP8 with inverse scales, of stacked experts");
}

// As DeepSeek-V3, Qwen and GLM store FP8; of models that have no table here.
TEST_F(Sources, InverseScalesAreRead) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16, Dtype::kF8E8M0}) {
    const std::string name(dtype_name(dtype));
    const std::string source = write(
        name, {tensor("m.weight", Dtype::kF8E4M3, {256, 128}), tensor("m.weight_scale_inv", dtype, {2, 1})},
        {{"quantization_config", {{"quant_method", "fp8"}}}});
    EXPECT_EQ(run_json({"inspect", source, "--tensor", "m"})["weight_format"], "FP8 blocks") << name;
    EXPECT_EQ(run_cli({"dequantize", source, path("of_" + name), "--quiet"}).exit_code, 0) << name;
    const Checkpoint made = Checkpoint::open(path("of_" + name), system_files());
    ASSERT_EQ(made.tensors().size(), 1u);
    EXPECT_EQ(made.at("m.weight").dtype, Dtype::kBF16);
  }
}

TEST_F(Sources, OtherKindsOfV4AreNamed) {
  const auto is_quantized = [](const Tensor& tensor) {
    return tensor.dtype == Dtype::kF8E4M3 || tensor.dtype == Dtype::kI8;
  };
  const std::string transformers = retold("transformers", [](Tensor& tensor) {
    if (tensor.name == "embed.weight") tensor.name = "model.embed_tokens.weight";
  });
  const CliResult names = run_cli({"plan", transformers});
  EXPECT_EQ(names.exit_code, 4) << names.err;
  EXPECT_THAT(names.err, HasSubstr("this checkpoint has transformers' tensor names, which are not read"));
  const std::string prefixed =
      retold("prefixed", [](Tensor& tensor) { tensor.name = "model." + tensor.name; });
  const CliResult prefix = run_cli({"plan", prefixed});
  EXPECT_EQ(prefix.exit_code, 4) << prefix.err;
  EXPECT_THAT(prefix.err, HasSubstr("the tensors' names have something before the official ones"));

  fs::create_directories(path("bf16"));
  std::vector<Tensor> plain;
  const Checkpoint source = Checkpoint::open(tiny_checkpoint(), system_files());
  for (Tensor tensor : source.tensors()) {
    if (tensor.name.ends_with(".scale")) continue;
    if (tensor.dtype == Dtype::kI8) tensor.shape[1] *= 2;
    if (is_quantized(tensor)) tensor.dtype = Dtype::kBF16;
    plain.push_back(std::move(tensor));
  }
  const CliResult bf16 = run_cli({"plan", write("bf16", plain, source.config())});
  EXPECT_EQ(bf16.exit_code, 4);
  EXPECT_THAT(bf16.err, HasSubstr("this is a BF16 checkpoint, whose weights are not quantized"));

  const std::string other_scales = retold("weight_scale", [](Tensor& tensor) {
    if (tensor.name.ends_with(".scale")) tensor.name.replace(tensor.name.size() - 5, 5, "weight_scale");
  });
  const CliResult scales = run_cli({"plan", other_scales});
  EXPECT_EQ(scales.exit_code, 3) << scales.err;
  EXPECT_THAT(scales.err, HasSubstr("layers.0.attn.wq_a.weight_scale'"));
  EXPECT_THAT(scales.err, HasSubstr("does not fit its weight"));
  EXPECT_THAT(scales.err, HasSubstr("found F8_E8M0 "));
}

TEST_F(Sources, AnNvfp4CheckpointIsCalledThat) {
  write_file(path("ids.jsonl"), "{\"input_ids\": " + Json(std::vector<int>(32, 7)).dump() + "}\n");
  ASSERT_EQ(run_cli({"synth", "v4-tiny", path("tiny"), "--layers", "0..0", "--experts", "2"}).exit_code, 0);
  const CliResult made = run_cli({"quantize", path("tiny"), path("nvfp4"), "--calib", path("ids.jsonl")});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const CliResult again = run_cli({"plan", path("nvfp4")});
  EXPECT_EQ(again.exit_code, 4);
  EXPECT_THAT(again.err, HasSubstr("this checkpoint is already NVFP4, made by nibblecast"));
}

TEST_F(Sources, ScalesThatDoNotFitAreDescribed) {
  const auto error_of = [&](const std::vector<Tensor>& tensors, int exit_code) {
    const CliResult result = run_cli({"dequantize", write("scales", tensors, Json::object()), path("out")});
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    return result.err;
  };
  const Tensor weight = tensor("m.weight", Dtype::kF8E4M3, {256, 384});
  EXPECT_THAT(error_of({weight, tensor("m.weight_scale", Dtype::kF32, {255, 1})}, 3),
              HasSubstr("F16 or BF16 or F32 of one value, F16 or BF16 or F32 [256, 1], F16 or BF16 or F32 "
                        "[2, 3], U8 or F8_E8M0 [256, 12]"));
  EXPECT_THAT(error_of({weight, tensor("m.weight_scale", Dtype::kF64, {256, 1})}, 4),
              HasSubstr("found F64 [256, 1]"));
  EXPECT_THAT(error_of({weight, tensor("m.scale", Dtype::kF8E8M0, {256, 12})}, 3),
              HasSubstr("[2, 3], found F8_E8M0 [256, 12]"));
  EXPECT_THAT(error_of({weight, tensor("m.amax", Dtype::kF32, {})}, 3),
              HasSubstr("expected a tensor 'm.scale' or 'm.weight_scale_inv' or 'm.weight_scale'"));
  EXPECT_THAT(error_of({weight, tensor("m.input_scale", Dtype::kF32, {})}, 4),
              HasSubstr("found m.input_scale (F32)"));
}

TEST_F(Sources, DownloadsThatAreNotWhole) {
  fs::copy(tiny_checkpoint(), path("tiny"), fs::copy_options::recursive);
  std::vector<std::string> shards;
  for (const auto& entry : fs::directory_iterator(path("tiny"))) {
    if (entry.path().extension() == ".safetensors") shards.push_back(entry.path().filename().string());
  }
  std::ranges::sort(shards);
  ASSERT_GE(shards.size(), 2u);
  fs::rename(path("tiny/model.safetensors.index.json"), path("index"));
  EXPECT_THAT(run_cli({"plan", path("tiny")}).err, HasSubstr("but the index that belongs to it is missing"));
  fs::rename(path("index"), path("tiny/model.safetensors.index.json"));
  for (const std::string& shard : shards) fs::remove(path("tiny") + "/" + shard);
  const CliResult missing = run_cli({"plan", path("tiny")});
  EXPECT_EQ(missing.exit_code, 3);
  const std::string count = std::to_string(shards.size());
  EXPECT_THAT(missing.err, HasSubstr(count + " of " + count + " shards that the index names are missing: " +
                                     shards[0] + ", " + shards[1]));
  EXPECT_THAT(missing.err, HasSubstr("`hf download OWNER/NAME --local-dir " + path("tiny") + "`"));
  fs::create_directories(path("tiny/.cache/huggingface/download"));
  write_file(path("tiny/.cache/huggingface/download/AbC=.deadbeef.incomplete"), "");
  EXPECT_THAT(run_cli({"plan", path("tiny")}).err, HasSubstr("AbC=.deadbeef.incomplete is there"));

  // In the Hub's cache links lead to blobs.
  const std::string model = path("hub/models--deepseek-ai--Tiny"), snapshot = model + "/snapshots/abc";
  fs::create_directories(snapshot);
  fs::create_directories(model + "/blobs");
  for (const char* name : {"config.json", "model.safetensors.index.json"})
    fs::copy(path("tiny") + "/" + name, snapshot + "/" + name);
  for (const std::string& shard : shards) fs::create_symlink("../../blobs/" + shard, snapshot + "/" + shard);
  write_file(model + "/blobs/1234.incomplete", "");
  EXPECT_THAT(run_cli({"plan", snapshot}).err,
              HasSubstr("(1234.incomplete is there): `hf download deepseek-ai/Tiny` goes on with it"));
}

TEST_F(Sources, OtherAddressesAreNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {"s3://bucket/model", "is an address that is not read"},
      {"hf://deepseek-ai", "does not name owner and model"},
      {"hf://datasets/a/b", "names something inside a model"},
      {"https://user:secret@example.com/x", "an address with a user name or password is not read"},
  };
  for (const auto& [address, words] : cases) {
    const CliResult result = run_cli({"plan", address});
    EXPECT_NE(result.exit_code, 0) << address;
    EXPECT_THAT(result.err, HasSubstr(words));
    EXPECT_THAT(result.err, ::testing::Not(HasSubstr("secret")));
  }
}

TEST_F(Sources, AFileThatIsNoFileIsBadInput) {
  ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  const std::string source = tiny_checkpoint().string();
  for (const std::string& name : {path("pipe") + ".yaml", path("pipe")}) {
    EXPECT_EQ(run_cli({"plan", source, "--recipe", name}).exit_code, 3) << name;
    EXPECT_EQ(run_cli({"plan", source, "--amax", name}).exit_code, 3) << name;
    EXPECT_EQ(run_cli({"inspect", name}).exit_code, 3) << name;
  }
}

TEST_F(Sources, InspectKnowsTransformersNames) {
  const std::string source = tiny_checkpoint().string();
  const Json official = run_json({"inspect", source, "--tensor", "layers.1.attn.wq_a"});
  for (const char* name : {"model.layers.1.self_attn.q_a_proj", "model.layers.1.self_attn.q_a_proj.weight"})
    EXPECT_EQ(run_json({"inspect", source, "--tensor", name}), official) << name;
  EXPECT_EQ(run_json({"inspect", source, "--tensor", "model.layers.1.self_attn.q_a_proj.scale"})["name"],
            "layers.1.attn.wq_a.scale");
}

TEST_F(Sources, OptionsWithoutAnEffectAreNamed) {
  const std::string source = tiny_checkpoint().string();
  const auto warnings = [&](std::vector<std::string> options) {
    std::vector<std::string> arguments = {"plan", source, path("out")};
    arguments.insert(arguments.end(), options.begin(), options.end());
    return run_json(arguments)["warnings"].dump();
  };
  EXPECT_EQ(warnings({}), "[]");
  EXPECT_THAT(warnings({"--device-memory", "4G"}),
              HasSubstr("--device-memory has no effect: the run is on cpu"));
  EXPECT_THAT(warnings({"--device-profile", "--device", "cpu"}), HasSubstr("--device-profile has no effect"));
  EXPECT_THAT(warnings({"--memory", "1000T"}), HasSubstr("--memory 1000.0 TiB is more than the "));
}

}  // namespace
}  // namespace nibblecast::testing
