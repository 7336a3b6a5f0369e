// `dequantize` through the whole pipeline: every value of every format, and what is refused.
#include "plan/dequantize.h"

#include <gmock/gmock.h>

#include <cstring>
#include <map>
#include <numeric>
#include <set>

#include "formats/nvfp4.h"
#include "model/families/deepseek_v4/modules.h"
#include "pipeline/verify.h"
#include "pipeline/verify_checksums.h"
#include "stored_checkpoint.h"

namespace nibblecast {
namespace {

using testing::bytes_of;
namespace fs = std::filesystem;
using ::testing::Contains;
using testing::edit_tensor;
using ::testing::ElementsAre;
using testing::expect_error;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kNoActivations;
using testing::run_job;
using testing::StoredTensor;
using testing::TemporaryFolder;
using testing::tensor_bytes;
using testing::write_checkpoint;

Json tiles(const Json& size) { return {{"quantization_config", {{"weight_block_size", size}}}}; }

template <class T>
std::vector<T> values_of(const std::string& bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

uint8_t nibble(const std::string& codes, size_t at) {
  return static_cast<uint8_t>(static_cast<uint8_t>(codes[at / 2]) >> (at % 2 * 4) & 15);
}

class Dequantize : public ::testing::Test {
 protected:
  void write(const std::vector<StoredTensor>& tensors, const Json& config = Json::object()) {
    std::filesystem::remove_all(path("source"));
    std::filesystem::remove_all(path("out"));
    write_checkpoint(path("source"), tensors, config);
  }
  RunRecord run(Dtype dtype) { return run({.dtype = dtype}); }
  RunRecord run(const DequantizeOptions& options) {
    std::filesystem::remove_all(path("out"));
    const Checkpoint in = source();
    return run_job(in, make_dequantize_plan(in, options), kNoActivations, path("out"));
  }
  void refuse(ErrorKind kind, const std::vector<StoredTensor>& tensors, const std::string& part,
              const Json& config = Json::object(), Dtype dtype = Dtype::kBF16) {
    write(tensors, config);
    const Checkpoint in = source();
    expect_error(
        kind, [&] { make_dequantize_plan(in, {.dtype = dtype}); }, part);
  }
  // Of both dtypes: the values that `value(index)` says, rounded once more for BF16.
  template <class F>
  void expect_values(const std::string& name, const F& value) {
    run(Dtype::kF32);
    const std::vector<float> wide = values_of<float>(tensor_bytes(output(), name));
    EXPECT_EQ(output().at(name).dtype, Dtype::kF32);
    run(Dtype::kBF16);
    const std::vector<bf16> narrow = values_of<bf16>(tensor_bytes(output(), name));
    EXPECT_EQ(output().at(name).dtype, Dtype::kBF16);
    ASSERT_EQ(wide.size(), narrow.size());
    ASSERT_FALSE(wide.empty());
    for (size_t at = 0; at < wide.size(); ++at) {
      const float expected = value(at);
      ASSERT_EQ(std::bit_cast<uint32_t>(wide[at]), std::bit_cast<uint32_t>(expected)) << name << " " << at;
      ASSERT_EQ(narrow[at].bits, to_bf16(expected).bits) << name << " " << at;
    }
  }

  VerifyReport proof() const { return verify(source(), path("out"), system_files()); }

  std::filesystem::path path(const std::string& name) const { return folder_.path() / name; }
  Checkpoint source() const { return Checkpoint::open(path("source"), system_files()); }
  Checkpoint output() const { return Checkpoint::open(path("out"), system_files()); }

 private:
  TemporaryFolder folder_;
};

TEST_F(Dequantize, Fp8TilesOfAnySizeWithEdges) {
  for (const Dtype dtype : {Dtype::kF8E8M0, Dtype::kF32}) {
    write({{"a.weight", Dtype::kF8E4M3, {7, 11}}, {"a.scale", dtype, {3, 3}}}, tiles({3, 5}));
    const std::string codes = tensor_bytes(source(), "a.weight"), scales = tensor_bytes(source(), "a.scale");
    expect_values("a.weight", [&](size_t at) {
      const size_t tile = at / 11 / 3 * 3 + at % 11 / 5;
      const float scale = dtype == Dtype::kF32 ? values_of<float>(scales)[tile]
                                               : decode_e8m0(static_cast<uint8_t>(scales[tile]));
      return decode_e4m3(static_cast<uint8_t>(codes[at])) * scale;
    });
    EXPECT_EQ(output().find("a.scale"), nullptr);
  }
}

// As compressed-tensors packs Kimi-K2's experts.
Json packed_integers(const Json& group_size) {
  const Json weights = {{"type", "int"},
                        {"num_bits", 4},
                        {"symmetric", true},
                        {"strategy", "group"},
                        {"group_size", group_size}};
  return {{"quantization_config",
           {{"quant_method", "compressed-tensors"},
            {"format", "pack-quantized"},
            {"config_groups", {{"group_0", {{"weights", weights}}}}}}}};
}

std::vector<StoredTensor> int4_tensors(int64_t rows, int64_t cols) {
  return {{"a.weight_packed", Dtype::kI32, {6, 8}},
          {"a.weight_scale", Dtype::kBF16, {6, 2}},
          {"a.weight_shape", Dtype::kI64, {2}, bytes_of<int64_t>({rows, cols})}};
}

TEST_F(Dequantize, PackedIntegers) {
  write(int4_tensors(6, 64), packed_integers(32));
  const std::string codes = tensor_bytes(source(), "a.weight_packed");
  const std::vector<bf16> scales = values_of<bf16>(tensor_bytes(source(), "a.weight_scale"));
  expect_values("a.weight", [&](size_t at) {
    return static_cast<float>(nibble(codes, at) - 8) * to_float(scales[at / 32]);
  });
  EXPECT_EQ(output().tensors().size(), 1u);
  EXPECT_TRUE(proof().problems.empty());
}

TEST_F(Dequantize, PackedIntegersThatFitNothingAreRefused) {
  refuse(ErrorKind::kBadInput, int4_tensors(6, 64), "a.weight_scale", packed_integers(64));
  refuse(ErrorKind::kUnsupported, int4_tensors(6, 64), "a.weight_packed");
  Json eight = packed_integers(32);
  eight["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = 8;
  refuse(ErrorKind::kUnsupported, int4_tensors(6, 64), "config_groups.group_0.weights.num_bits is 8", eight);
  write(int4_tensors(6, 63), packed_integers(32));
  expect_error(
      ErrorKind::kBadInput, [&] { run(Dtype::kBF16); }, "a.weight_shape", "expected [6, 64]",
      "found [6, 63]");
}

// As Qwen's FP8 releases have them: the scale is BF16 itself, and goes.
TEST_F(Dequantize, ScalesInBf16) {
  write({{"a.weight", Dtype::kF8E4M3, {7, 11}}, {"a.weight_scale_inv", Dtype::kBF16, {3, 3}}}, tiles({3, 5}));
  const std::string codes = tensor_bytes(source(), "a.weight");
  const std::vector<bf16> scales = values_of<bf16>(tensor_bytes(source(), "a.weight_scale_inv"));
  expect_values("a.weight", [&](size_t at) {
    return decode_e4m3(static_cast<uint8_t>(codes[at])) * to_float(scales[at / 11 / 3 * 3 + at % 11 / 5]);
  });
  EXPECT_EQ(output().tensors().size(), 1u);
}

TEST_F(Dequantize, OneScaleForATensor) {
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{1, 1}}) {
    write({{"a.weight", Dtype::kF8E4M3, {200, 150}},
           {"a.weight_scale", Dtype::kF32, shape},
           {"a.input_scale", Dtype::kF32, {}}});
    const std::string codes = tensor_bytes(source(), "a.weight");
    const float scale = values_of<float>(tensor_bytes(source(), "a.weight_scale"))[0];
    expect_values("a.weight",
                  [&](size_t at) { return decode_e4m3(static_cast<uint8_t>(codes[at])) * scale; });
    EXPECT_EQ(output().tensors().size(), 1u);
  }
}

TEST_F(Dequantize, Mxfp4AndNvfp4) {
  write({{"mtp.0.m.weight", Dtype::kI8, {3, 32}},
         {"mtp.0.m.scale", Dtype::kF8E8M0, {3, 2}},
         {"n.weight", Dtype::kU8, {3, 24}},
         {"n.weight_scale", Dtype::kF8E4M3, {3, 3}},
         {"n.weight_scale_2", Dtype::kF32, {}},
         {"n.input_scale", Dtype::kF32, {}}});
  const auto bytes = [&](const char* name) { return tensor_bytes(source(), name); };
  const std::string m = bytes("mtp.0.m.weight"), m_scales = bytes("mtp.0.m.scale");
  expect_values("mtp.0.m.weight", [&](size_t at) {
    return decode_e2m1(nibble(m, at)) * decode_e8m0(static_cast<uint8_t>(m_scales[at / 32]));
  });
  const std::string n = bytes("n.weight"), n_scales = bytes("n.weight_scale");
  const float scale_2 = values_of<float>(bytes("n.weight_scale_2"))[0];
  expect_values("n.weight", [&](size_t at) {
    return decode_e2m1(nibble(n, at)) * (decode_e4m3(static_cast<uint8_t>(n_scales[at / 16])) * scale_2);
  });
  EXPECT_EQ(output().tensors().size(), 2u);
}

TEST_F(Dequantize, PlainTensorsOfAnyRankWidenOnlyToF32) {
  const std::vector<StoredTensor> tensors = {
      {"scalar", Dtype::kBF16, {}},      {"vector", Dtype::kBF16, {5}},   {"matrix", Dtype::kBF16, {3, 4}},
      {"cube", Dtype::kBF16, {3, 4, 5}}, {"empty", Dtype::kBF16, {0, 4}}, {"f32", Dtype::kF32, {3}},
      {"i64", Dtype::kI64, {2, 2}}};
  write(tensors);
  run(Dtype::kBF16);
  for (const StoredTensor& tensor : tensors)
    EXPECT_EQ(tensor_bytes(output(), tensor.name), tensor_bytes(source(), tensor.name)) << tensor.name;
  run(Dtype::kF32);
  for (const StoredTensor& tensor : tensors) {
    const std::string from = tensor_bytes(source(), tensor.name), to = tensor_bytes(output(), tensor.name);
    EXPECT_EQ(output().at(tensor.name).shape, tensor.shape);
    if (tensor.dtype != Dtype::kBF16) {
      EXPECT_EQ(from, to) << tensor.name;
      continue;
    }
    EXPECT_EQ(output().at(tensor.name).dtype, Dtype::kF32);
    std::vector<float> wide;
    for (const bf16 value : values_of<bf16>(from)) wide.push_back(to_float(value));
    EXPECT_EQ(to, bytes_of(wide)) << tensor.name;
  }
  EXPECT_THAT(proof().problems, IsEmpty());
}

// Tensors of more than a chunk go through by rows.
TEST_F(Dequantize, LargeTensors) {
  write({{"a.weight", Dtype::kF8E4M3, {4200, 4100}}, {"a.scale", Dtype::kF32, {33, 33}}});
  const std::string codes = tensor_bytes(source(), "a.weight");
  const std::vector<float> scales = values_of<float>(tensor_bytes(source(), "a.scale"));
  const RunRecord record = run(Dtype::kBF16);
  const std::vector<bf16> values = values_of<bf16>(tensor_bytes(output(), "a.weight"));
  uint64_t inexact = 0, wrong = 0;
  for (size_t at = 0; at < values.size(); ++at) {
    const float value =
        decode_e4m3(static_cast<uint8_t>(codes[at])) * scales[at / 4100 / 128 * 33 + at % 4100 / 128];
    wrong += values[at].bits != to_bf16(value).bits;
    inexact += to_float(values[at]) != value;
  }
  EXPECT_EQ(wrong, 0u);
  EXPECT_GT(inexact, 0u);
  EXPECT_EQ(record.inexact.at("a.weight"), inexact);
  const VerifyReport report = proof();
  EXPECT_THAT(report.problems, IsEmpty());
  EXPECT_EQ(report.made_bytes, values.size() * 2);
  edit_tensor(path("out"), "a.weight", 7, "x");
  edit_tensor(path("out"), "a.weight", 30'000'000, "xyz");
  EXPECT_THAT(proof().problems,
              ElementsAre(HasSubstr("a.weight: 4 of 34440000 bytes are not what dequantize makes of the "
                                    "source, the first at byte 7")));
  const Checkpoint in = source();
  EXPECT_LT(make_dequantize_plan(in, {}).largest_made_bytes, 34u << 20);
}

TEST_F(Dequantize, ARelease) {
  testing::make_tiny_source(path("source"));
  const RunRecord record = run(Dtype::kBF16);
  EXPECT_TRUE(record.inexact.empty());
  const Json config = output().config();
  EXPECT_FALSE(config.contains("quantization_config"));
  EXPECT_FALSE(config.contains("expert_dtype"));
  EXPECT_EQ(config["torch_dtype"].get<std::string>(), "bfloat16");
  uint64_t weights = 0;
  const Checkpoint made = output();
  for (const Tensor& tensor : made.tensors()) {
    EXPECT_TRUE(tensor.dtype == Dtype::kBF16 || tensor.dtype == Dtype::kF32 || tensor.dtype == Dtype::kI64)
        << tensor.name;
    EXPECT_FALSE(tensor.name.ends_with(".scale"));
    weights += tensor.name.starts_with("mtp.") && tensor.name.ends_with(".weight");
  }
  EXPECT_GT(weights, 0u);
  EXPECT_FALSE(std::filesystem::exists(path("out") / "hf_quant_config.json"));
}

// V4-Base: FP8 experts under F32 scales, which BF16 cannot always hold.
TEST_F(Dequantize, ABaseRelease) {
  synthesize(preset_config("v4-tiny"), "v4-tiny", {.experts = 4, .fp8_experts = true}, path("source"),
             system_files());
  const Checkpoint in = source();
  for (const Dtype dtype : {Dtype::kBF16, Dtype::kF32}) {
    const RunRecord record = run(dtype);
    const Checkpoint made = output();
    uint64_t weights = 0, values = 0, wrong = 0, inexact = 0;
    for (const Tensor& tensor : in.tensors()) {
      if (tensor.dtype != Dtype::kF8E4M3) continue;
      const std::string module = tensor.name.substr(0, tensor.name.rfind('.'));
      EXPECT_EQ(in.at(module + ".scale").dtype, Dtype::kF32);
      EXPECT_EQ(made.find(module + ".scale"), nullptr);
      EXPECT_EQ(made.at(tensor.name).dtype, dtype);
      EXPECT_EQ(made.at(tensor.name).shape, tensor.shape);
      const std::string codes = tensor_bytes(in, tensor.name), found = tensor_bytes(made, tensor.name);
      const std::vector<float> scales = values_of<float>(tensor_bytes(in, module + ".scale"));
      const uint64_t cols = tensor.shape[1], tiles = (cols + 127) / 128;
      ASSERT_EQ(found.size(), codes.size() * dtype_bytes(dtype));
      for (size_t at = 0; at < codes.size(); ++at) {
        const float value =
            decode_e4m3(static_cast<uint8_t>(codes[at])) * scales[at / cols / 128 * tiles + at % cols / 128];
        const std::string expected = dtype == Dtype::kF32
                                         ? bytes_of(std::vector<float>{value})
                                         : bytes_of(std::vector<uint16_t>{to_bf16(value).bits});
        wrong += found.compare(at * expected.size(), expected.size(), expected) != 0;
        inexact += dtype == Dtype::kBF16 && to_float(to_bf16(value)) != value;
      }
      ++weights, values += codes.size();
    }
    EXPECT_GT(weights, 5u * 4 * 3);
    EXPECT_EQ(wrong, 0u) << "of " << values;
    const uint64_t counted =
        std::accumulate(record.inexact.begin(), record.inexact.end(), uint64_t{0},
                        [](uint64_t sum, const auto& tensor) { return sum + tensor.second; });
    EXPECT_EQ(counted, inexact);
    EXPECT_THAT(proof().problems, IsEmpty());
  }
}

TEST_F(Dequantize, VerifyProvesTheOutput) {
  testing::make_tiny_source(path("source"));
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    run(dtype);
    const VerifyReport report = proof();
    EXPECT_THAT(report.problems, IsEmpty());
    EXPECT_GT(report.made_bytes, 0u);
    EXPECT_THAT(report.notes, ElementsAre(HasSubstr("made by: dequantize ")));
  }
  for (const std::string name : {"layers.1.ffn.experts.2.w3.weight", "layers.0.attn.wo_b.weight",
                                 "mtp.0.e_proj.weight", "norm.weight", "layers.2.ffn.gate.weight"}) {
    run(Dtype::kBF16);
    edit_tensor(path("out"), name, 9, "!");
    EXPECT_THAT(proof().problems, ElementsAre(HasSubstr(name))) << name;
  }
}

TEST_F(Dequantize, VerifyReadsTheDocuments) {
  testing::make_tiny_source(path("source"));
  run(Dtype::kBF16);
  const auto with = [&](const std::string& name, const auto& edit) {
    const std::string text = read_text(system_files(), path("out") / name, 1 << 30);
    Json document = parse_json(text, name);
    edit(document);
    write_text_durably(system_files(), path("out") / name, document.dump());
    std::vector<std::string> problems = proof().problems;
    write_text_durably(system_files(), path("out") / name, text);
    return problems;
  };
  EXPECT_THAT(with("config.json", [](Json& config) { config["quantization_config"] = Json::object(); }),
              ElementsAre(HasSubstr("config.json: quantization_config must be absent")));
  EXPECT_THAT(with("config.json", [](Json& config) { config["torch_dtype"] = "float32"; }),
              ElementsAre(HasSubstr("config.json: torch_dtype must be")));
  // Whatever made it, it is not this.
  EXPECT_THAT(with("nibblecast.json", [](Json& run) { run["options"]["made"] = "dequantize float32"; }),
              Contains(HasSubstr("must be F32")));
  EXPECT_THAT(with("nibblecast.json", [](Json& run) { run["options"]["made"] = "dequantize int3"; }),
              Contains(HasSubstr("options.made is unknown; found 'dequantize int3'")));
  EXPECT_THAT(with("nibblecast.json", [](Json& run) { run["command"] = "distil"; }),
              Contains(HasSubstr("command is unknown; found \"distil\"")));
}

// ---- transformers' names ----

class TransformersNames : public Dequantize {
 protected:
  // Every value of "out", under transformers' names, is the official output's in "official".
  void expect_same_values() {
    const Checkpoint made = output(), official = Checkpoint::open(path("official"), system_files());
    const auto config = DeepseekV4Config::parse(official.config(), "config.json");
    std::set<std::string> seen;
    for (const Tensor& tensor : official.tensors()) {
      const auto hub = hub_tensor(config, tensor.name);
      const std::string name = hub ? hub->name : tensor.name;
      EXPECT_EQ(hub.has_value(), !tensor.name.starts_with("mtp.")) << tensor.name;
      seen.insert(name);
      const Tensor& found = made.at(name);
      EXPECT_EQ(found.dtype, tensor.dtype) << name;
      EXPECT_EQ(found.shape, hub ? hub->whole.value_or(tensor.shape) : tensor.shape) << name;
      const uint64_t begin = hub ? hub->part * tensor.size_bytes : 0;
      EXPECT_TRUE(tensor_bytes(made, name).substr(begin, tensor.size_bytes) ==
                  tensor_bytes(official, tensor.name))
          << tensor.name;
    }
    EXPECT_EQ(seen.size(), made.tensors().size());
    EXPECT_EQ(made.config(), hub_config(official.config(), config));
  }
};

TEST_F(TransformersNames, HoldTheSameValues) {
  testing::make_tiny_source(path("source"));
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    std::filesystem::remove_all(path("official"));
    run(dtype);
    std::filesystem::rename(path("out"), path("official"));
    run({.dtype = dtype, .names = TensorNames::kTransformers});
    expect_same_values();
    const VerifyReport report = proof();
    EXPECT_THAT(report.problems, IsEmpty());
    EXPECT_EQ(report.tensors, output().tensors().size());
    const ChecksumReport checksums = verify_checksums(system_files(), path("out"), {});
    EXPECT_THAT(checksums.problems, IsEmpty());
    EXPECT_EQ(checksums.tensors, output().tensors().size());
  }
}

// Weights that are kept are stacked as well.
TEST_F(TransformersNames, OfASourceThatIsBf16Already) {
  testing::make_tiny_source(path("source"));
  run(Dtype::kBF16);
  std::filesystem::rename(path("out"), path("official"));
  std::filesystem::remove_all(path("source"));
  std::filesystem::copy(path("official"), path("source"));
  run({.names = TensorNames::kTransformers});
  expect_same_values();
  const VerifyReport report = proof();
  EXPECT_THAT(report.problems, IsEmpty());
  EXPECT_EQ(report.made_bytes, 0u);
}

// A stack goes to where its first expert is, whatever shards the others are in; a shard of others only is
// left without tensors.
TEST_F(TransformersNames, StacksOverSeveralShards) {
  testing::make_tiny_source(path("source"));
  {
    const Checkpoint in = source();
    const fs::path index = path("source") / "model.safetensors.index.json";
    Json document = parse_json(read_text(system_files(), index, 1 << 30), "index");
    const std::string name = in.shards()[1].name;  // of layer 0
    std::map<std::string, std::pair<std::vector<Tensor>, std::string>> shards;
    for (const Tensor& tensor : in.tensors()) {
      if (in.shards()[tensor.shard].name != name) continue;
      const auto has = [&](const char* part) { return tensor.name.find(part) != std::string::npos; };
      const std::string shard = has("experts.0.w1") ? "y.safetensors"
                                : has("experts.3.") ? "z.safetensors"
                                                    : name;
      auto& [tensors, bytes] = shards[shard];
      tensors.push_back(tensor);
      tensors.back().offset = bytes.size();
      bytes += tensor_bytes(in, tensor.name);
      document["weight_map"][tensor.name] = shard;
    }
    for (const auto& [shard, content] : shards) {
      write_text_durably(system_files(), path("source") / shard,
                         write_safetensors_header(content.first, {}) + content.second);
    }
    write_text_durably(system_files(), index, document.dump());
  }
  run(Dtype::kBF16);
  std::filesystem::rename(path("out"), path("official"));
  run({.names = TensorNames::kTransformers});
  expect_same_values();
  EXPECT_THAT(proof().problems, IsEmpty());
  EXPECT_THAT(verify_checksums(system_files(), path("out"), {}).problems, IsEmpty());
}

TEST_F(TransformersNames, WhatIsWrongIsNamed) {
  testing::make_tiny_source(path("source"));
  run({.names = TensorNames::kTransformers});
  const std::string stack = "model.layers.1.mlp.experts.gate_up_proj";
  const uint64_t part = output().at(stack).size_bytes / 16;
  edit_tensor(path("out"), stack, 5 * part + 10, "!");
  EXPECT_THAT(proof().problems, ElementsAre(HasSubstr(stack + "[5]: 1 of")));
  EXPECT_THAT(verify_checksums(system_files(), path("out"), {}).problems,
              ElementsAre(HasSubstr(stack + "[5]")));
  // Official names under a record that says otherwise.
  run(Dtype::kBF16);
  const fs::path record = path("out") / "nibblecast.json";
  Json document = parse_json(read_text(system_files(), record, 1 << 30), "record");
  document["options"]["made"] = "dequantize bfloat16 transformers names";
  write_text_durably(system_files(), record, document.dump());
  EXPECT_THAT(proof().problems, Contains(HasSubstr("model.embed_tokens.weight: is missing")));
}

TEST_F(TransformersNames, RefusesWhatThatModelHasNoPlaceFor) {
  const auto refuse_names = [&](ErrorKind kind, const std::string& part) {
    expect_error(
        kind, [&] { make_dequantize_plan(source(), {.names = TensorNames::kTransformers}); }, part);
  };
  Json config = preset_config("v4-tiny");
  write({{"norm.weight", Dtype::kBF16, {4}}}, Json{{"model_type", "gpt2"}});
  refuse_names(ErrorKind::kUnsupported, "model_type");
  write({{"layers.0.attn.extra.weight", Dtype::kBF16, {4, 4}}}, config);
  refuse_names(ErrorKind::kUnsupported, "layers.0.attn.extra.weight");
  const auto hidden = config["hidden_size"].get<uint64_t>(),
             width = config["moe_intermediate_size"].get<uint64_t>();
  write({{"layers.0.ffn.experts.0.w2.weight", Dtype::kBF16, {hidden, width}}}, config);
  refuse_names(ErrorKind::kBadInput, "an expert's weight is missing");
  write({{"layers.0.ffn.experts.0.w2.weight", Dtype::kBF16, {hidden, width / 2}}}, config);
  refuse_names(ErrorKind::kBadInput, "does not fit the config");
}

// What only the source's weights have a use for is left out, and its card stays beside ours.
TEST_F(Dequantize, DocumentsOfAnOutput) {
  testing::make_tiny_source(path("source"));
  write_text_durably(system_files(), path("source") / "hf_quant_config.json", "{}");
  write_text_durably(system_files(), path("source") / "nibblecast.json", "{}");
  write_text_durably(system_files(), path("source") / "README.source.md", "the first card");
  run(Dtype::kF32);
  EXPECT_FALSE(std::filesystem::exists(path("out") / "hf_quant_config.json"));
  EXPECT_EQ(read_text(system_files(), path("out") / "README.source.md", 100), "the first card");
  const std::string record = read_text(system_files(), path("out") / "nibblecast.json", 1 << 30);
  const Json document = parse_json(record, "nibblecast.json");
  EXPECT_EQ(document["command"].get<std::string>(), "dequantize");
  EXPECT_EQ(document["options"]["made"].get<std::string>(), "dequantize float32");
}

TEST_F(Dequantize, RefusesWhatItCannotReadByName) {
  const StoredTensor fp8 = {"a.weight", Dtype::kF8E4M3, {128, 256}};
  refuse(ErrorKind::kBadInput, {fp8}, "expected a tensor 'a.scale'");
  refuse(ErrorKind::kBadInput, {{"a.weight", Dtype::kI8, {4, 32}}}, "'a.weight'");
  refuse(ErrorKind::kBadInput, {{"a.weight", Dtype::kU8, {4, 32}}}, "'a.weight_scale'");
  refuse(ErrorKind::kBadInput, {fp8, {"a.scale", Dtype::kF32, {2, 2}}}, "expected F8_E8M0 or F32 [1, 2]");
  refuse(ErrorKind::kUnsupported, {fp8, {"a.scale", Dtype::kI32, {1, 2}}},
         "a.scale: integers beside scales (I32)");
  refuse(ErrorKind::kBadInput, {fp8, {"a.weight_scale", Dtype::kF32, {127}}}, "F32 of one value");
  refuse(ErrorKind::kBadInput,
         {{"a.weight", Dtype::kU8, {4, 12}},
          {"a.weight_scale", Dtype::kF8E4M3, {4, 1}},
          {"a.weight_scale_2", Dtype::kF32, {}}},
         "no whole blocks");
  refuse(ErrorKind::kUnsupported, {{"a.weight", Dtype::kF8E4M3, {4}}, {"a.scale", Dtype::kF32, {1, 1}}},
         "no matrix");
  refuse(ErrorKind::kUnsupported, {{"a.codes", Dtype::kU8, {4}}}, "a.codes: codes of AQLM");
  refuse(ErrorKind::kUnsupported, {{"a.stray", Dtype::kU8, {4}}}, "'a.stray'");
  refuse(ErrorKind::kUnsupported, {{"a.weight", Dtype::kF8E5M2, {4, 4}}}, "F8_E5M2");
  for (const Json& size : {Json({128, 0}), Json({128}), Json({-1, 128}), Json("128"), Json({128, 1 << 21})})
    refuse(ErrorKind::kBadInput, {fp8}, "weight_block_size", tiles(size));
}

TEST_F(Dequantize, RefusesValuesThatAreNotFinite) {
  std::string codes = testing::plain_bytes(Dtype::kF8E4M3, 128 * 256);
  codes[300] = 0x7f;
  write({{"a.weight", Dtype::kF8E4M3, {128, 256}, codes}, {"a.scale", Dtype::kF32, {1, 2}}});
  expect_error(
      ErrorKind::kBadInput, [&] { run(Dtype::kBF16); }, "a.weight", "row 1, column 44");
  EXPECT_FALSE(std::filesystem::exists(path("out") / "config.json"));
}

}  // namespace
}  // namespace nibblecast
