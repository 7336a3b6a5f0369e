// Outputs in compressed-tensors' form: llm-compressor's names and documents, the bytes of ModelOpt's form,
// and conversions between the two.
#include <gmock/gmock.h>

#include <fstream>

#include "family_models.h"
#include "pipeline/verify.h"
#include "plan/dequantize.h"
#include "plan/layout.h"
#include "plan/retarget.h"
#include "stored_checkpoint.h"

namespace nibblecast {
namespace {

namespace fs = std::filesystem;
using testing::bytes_of;
using ::testing::Contains;
using testing::edit_tensor;
using ::testing::ElementsAre;
using testing::expect_error;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kNoActivations;
using testing::plain_amax;
using testing::run_job;
using testing::StoredTensor;
using testing::TemporaryFolder;
using testing::tensor_bytes;
using testing::write_checkpoint;

Checkpoint open(const fs::path& folder) { return Checkpoint::open(folder, system_files()); }

QuantizeOptions options_of(const std::string& recipe, OutputFormat format) {
  QuantizeOptions options;
  options.recipe = recipe;
  options.format = format;
  options.weight_method = RecipeMethod::kMax;
  options.engines = {};
  return options;
}

void quantize(const fs::path& from, const fs::path& to, const QuantizeOptions& options) {
  const Checkpoint source = open(from);
  const Plan plan = make_plan(source, options);
  run_job(source, plan, {.rows = {}, .amax = plain_amax(plan), .origin = "test", .identity = "test"}, to);
}

Plan retarget(const fs::path& from, const fs::path& to, OutputFormat format) {
  const Checkpoint source = open(from);
  Plan plan = make_retarget_plan(source, format);
  run_job(source, plan, kNoActivations, to);
  return plan;
}

void dequantize(const fs::path& from, const fs::path& to) {
  const Checkpoint source = open(from);
  run_job(source, make_dequantize_plan(source, {.dtype = Dtype::kF32}), kNoActivations, to);
}

std::vector<float> floats(const Checkpoint& checkpoint, const std::string& name) {
  const std::string bytes = tensor_bytes(checkpoint, name);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

bool ends(const std::string& name, std::string_view ending) { return name.ends_with(ending); }
std::string renamed(const std::string& name, std::string_view ending, const char* with) {
  return name.substr(0, name.size() - ending.size()) + with;
}

// ---- llm-compressor's names, dtypes, shapes and config ----

class LlmCompressor : public ::testing::TestWithParam<std::tuple<const char*, const char*>> {};

// It renames Mixtral's experts; we do not.
std::string our_name(std::string name, const std::string& family) {
  if (family != "mixtral") return name;
  for (const auto& [theirs, ours] :
       {std::pair(".gate_proj.", ".w1."), {".up_proj.", ".w3."}, {".down_proj.", ".w2."}})
    if (const size_t at = name.find(theirs); at != std::string::npos)
      name.replace(at, std::string_view(theirs).size(), ours);
  return name;
}

TEST_P(LlmCompressor, NamesAndDocumentsAreTheirs) {
  const auto& [family, recipe] = GetParam();
  SKIP_WITHOUT_FAMILY_MODEL(model, std::string(family));
  const std::string scheme = std::string(recipe) == "nvfp4" ? "nvfp4" : "nvfp4a16";
  const Json golden = Json::parse(std::ifstream(model / ("llmcompressor-" + scheme + ".json")));
  const Checkpoint source = open(model);
  const Plan plan = make_plan(source, options_of(recipe, OutputFormat::kCompressedTensors));
  const auto indices = indices_by_name(plan);
  EXPECT_EQ(plan.tensors.size(), golden.at("tensors").size());
  for (const auto& [name, entry] : golden.at("tensors").items()) {
    const auto found = indices.find(our_name(name, family));
    ASSERT_NE(found, indices.end()) << name;
    const Tensor& tensor = plan.tensors[found->second].out;
    EXPECT_EQ(tensor.shape, entry[1].get<Shape>()) << name;
    // Their models were float32 where ours are BF16; scales are float32 in both.
    const bool is_plain = ends(name, ".weight") || ends(name, ".bias") || ends(name, "_bias");
    EXPECT_TRUE(is_plain || dtype_name(tensor.dtype) == entry[0].get<std::string>()) << name;
  }
  EXPECT_EQ(plan.config.at("quantization_config"), golden.at("config").at("quantization_config"));
  EXPECT_EQ(plan.hf_quant_config, Json());
}

INSTANTIATE_TEST_SUITE_P(Families, LlmCompressor,
                         ::testing::Combine(::testing::Values("llama", "qwen2", "qwen3", "qwen3_moe",
                                                              "mixtral", "glm4_moe", "deepseek_v3"),
                                            ::testing::Values("nvfp4", "w4a16_nvfp4")));

// ---- the same bytes as --format modelopt ----

class CompressedTensors : public ::testing::Test {
 protected:
  // A tiny Qwen3.5 with stacked experts, a delta net, draft layers and a vision tower.
  fs::path model() const { return testing::family_model("qwen3_5_moe"); }
  fs::path path(const std::string& name) const { return folder_.path() / name; }

  void quantize_both(const std::string& recipe) {
    quantize(model(), path("ct"), options_of(recipe, OutputFormat::kCompressedTensors));
    quantize(model(), path("mo"), options_of(recipe, OutputFormat::kModelOpt));
  }
  std::vector<std::string> problems(const std::string& source, const std::string& output) const {
    const fs::path from = source.empty() ? model() : path(source);
    return verify(open(from), path(output), system_files(), {.engines = std::set<Engine>()}).problems;
  }
  // Where the byte of a tensor is flipped, verify says so, and only of it.
  void expect_damage(const std::string& source, const std::string& name, uint64_t byte) {
    const std::string before = tensor_bytes(open(path("ct")), name);
    edit_tensor(path("ct"), name, byte, std::string(1, static_cast<char>(before[byte] ^ 1)));
    EXPECT_THAT(problems(source, "ct"), ElementsAre(HasSubstr(name))) << name;
    edit_tensor(path("ct"), name, byte, before.substr(byte, 1));
  }

 private:
  const TemporaryFolder folder_;
};

TEST_F(CompressedTensors, HoldsModelOptsBytesAndTheReciprocalsOfItsScales) {
  quantize_both("nvfp4");
  const Checkpoint ct = open(path("ct")), mo = open(path("mo"));
  ASSERT_EQ(ct.tensors().size(), mo.tensors().size());
  size_t scales = 0;
  for (const Tensor& tensor : mo.tensors()) {
    if (ends(tensor.name, ".weight_scale_2") || ends(tensor.name, ".input_scale")) {
      const bool of_input = ends(tensor.name, ".input_scale");
      const std::string name = of_input ? renamed(tensor.name, ".input_scale", ".input_global_scale")
                                        : renamed(tensor.name, ".weight_scale_2", ".weight_global_scale");
      EXPECT_EQ(ct.at(name).shape, Shape{1});
      EXPECT_EQ(floats(ct, name)[0], 1 / floats(mo, tensor.name)[0]) << name;
      ++scales;
    } else {
      const std::string name =
          tensor.dtype == Dtype::kU8 ? renamed(tensor.name, ".weight", ".weight_packed") : tensor.name;
      EXPECT_EQ(ct.at(name).dtype, tensor.dtype);
      EXPECT_EQ(ct.at(name).shape, tensor.shape);
      EXPECT_TRUE(tensor_bytes(ct, name) == tensor_bytes(mo, tensor.name)) << name;
    }
  }
  EXPECT_GE(scales, 40u);
  EXPECT_THAT(problems("", "ct"), IsEmpty());
}

TEST_F(CompressedTensors, ValuesDifferByTheReciprocalsLastBit) {
  quantize_both("w4a16_nvfp4");
  dequantize(path("ct"), path("ct-wide"));
  dequantize(path("mo"), path("mo-wide"));
  const Checkpoint ct = open(path("ct-wide")), mo = open(path("mo-wide"));
  ASSERT_EQ(ct.tensors().size(), mo.tensors().size());
  for (const Tensor& tensor : mo.tensors()) {
    if (tensor.dtype != Dtype::kF32) continue;
    const std::vector<float> found = floats(ct, tensor.name), expected = floats(mo, tensor.name);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t at = 0; at < found.size(); ++at)
      ASSERT_LE(std::abs(found[at] - expected[at]), std::ldexp(std::abs(expected[at]), -22)) << tensor.name;
  }
  EXPECT_THAT(problems("ct", "ct-wide"), IsEmpty());
}

TEST_F(CompressedTensors, VerifyFindsWhatWasDamaged) {
  quantize_both("nvfp4");
  const std::string expert = "model.language_model.layers.0.mlp.experts.2.down_proj";
  for (const char* kind : {".weight_packed", ".weight_scale", ".weight_global_scale", ".input_global_scale"})
    expect_damage("", expert + kind, 1);
  expect_damage("", "model.language_model.layers.0.input_layernorm.weight", 3);
  EXPECT_THAT(problems("", "ct"), IsEmpty());
  Json config = open(path("ct")).config();
  config["quantization_config"]["ignore"].erase(0);
  write_text_durably(system_files(), path("ct") / "config.json", config.dump());
  EXPECT_THAT(problems("", "ct"), ElementsAre(HasSubstr("config.json: quantization_config.ignore")));
}

// What is not text has patterns, and names of its matrices.
TEST_F(CompressedTensors, WhatIsNoTextIsIgnored) {
  quantize_both("nvfp4");
  const Json ignored = open(path("ct")).config().at("quantization_config").at("ignore");
  for (const char* name : {"re:mtp\\..*", "re:model\\.visual\\..*", "lm_head",
                           "model.language_model.layers.0.mlp.shared_expert_gate"})
    EXPECT_NE(std::ranges::find(ignored, Json(name)), ignored.end()) << name;
}

TEST_F(CompressedTensors, Fp8LinearsHaveScalesOfOneAxis) {
  QuantizeOptions options = options_of("mixed.yaml", OutputFormat::kCompressedTensors);
  options.recipe_text =
      "rules:\n  - modules: '*.mlp.experts.*'\n    format: nvfp4\n    quantize_input: true\n"
      "  - modules: '*.self_attn.*_proj'\n    format: fp8\n    quantize_input: true\n";
  quantize(model(), path("ct"), options);
  const Checkpoint ct = open(path("ct"));
  const Json& groups = ct.config().at("quantization_config").at("config_groups");
  ASSERT_EQ(groups.size(), 2u);
  const std::string q = groups.at("group_1").at("targets").at(0);
  EXPECT_EQ(ct.at(q + ".weight").dtype, Dtype::kF8E4M3);
  EXPECT_EQ(ct.at(q + ".weight_scale").shape, Shape{1});
  EXPECT_EQ(floats(ct, q + ".input_scale")[0], 2.0f / 448);  // no reciprocal
  EXPECT_THAT(problems("", "ct"), IsEmpty());
}

struct Stop {};

// Scales of units that were durable come from the journal, as the others from the run.
TEST_F(CompressedTensors, AStoppedRunGoesOnToTheSameBytes) {
  const Checkpoint source = open(model());
  const Plan plan = make_plan(source, options_of("nvfp4", OutputFormat::kCompressedTensors));
  const Activations activations = {
      .rows = {}, .amax = plain_amax(plan), .origin = "test", .identity = "test"};
  run_job(source, plan, activations, path("whole"));
  for (size_t steps : {3, 9}) {
    RunOptions options = testing::small_buffers();
    options.commit_interval = std::chrono::milliseconds(0);
    options.progress = [&](const Progress&) {
      if (steps-- == 0) throw Stop();
    };
    EXPECT_THROW(run_job(source, plan, activations, path("ct"), options), Stop);
    run_job(source, plan, activations, path("ct"));
    EXPECT_EQ(testing::folder_hashes(path("ct")), testing::folder_hashes(path("whole")));
    fs::remove_all(path("ct"));
  }
}

// ---- convert ----

TEST_F(CompressedTensors, ConvertGivesWhatQuantizeGives) {
  for (const char* recipe : {"nvfp4", "w4a16_nvfp4"}) {
    for (const char* name : {"ct", "mo", "to-ct", "back"}) fs::remove_all(path(name));
    quantize_both(recipe);
    const Plan plan = retarget(path("mo"), path("to-ct"), OutputFormat::kCompressedTensors);
    EXPECT_FALSE(plan.refused());
    const Checkpoint ct = open(path("ct")), converted = open(path("to-ct"));
    EXPECT_EQ(ct.config(), converted.config());
    ASSERT_EQ(ct.tensors().size(), converted.tensors().size());
    for (const Tensor& tensor : ct.tensors()) {
      EXPECT_EQ(converted.at(tensor.name).shape, tensor.shape);
      EXPECT_TRUE(tensor_bytes(ct, tensor.name) == tensor_bytes(converted, tensor.name)) << tensor.name;
    }
    EXPECT_FALSE(fs::exists(path("to-ct") / "hf_quant_config.json"));
    EXPECT_THAT(problems("mo", "to-ct"), IsEmpty());
    retarget(path("to-ct"), path("back"), OutputFormat::kModelOpt);
    EXPECT_EQ(open(path("mo")).config(), open(path("back")).config());
    EXPECT_TRUE(fs::exists(path("back") / "hf_quant_config.json"));
    EXPECT_THAT(problems("to-ct", "back"), IsEmpty());
  }
}

TEST_F(CompressedTensors, ConvertSaysHowManyScalesDoNotReturn) {
  quantize_both("w4a16_nvfp4");
  const Checkpoint mo = open(path("mo"));
  size_t changed = 0, scales = 0;
  for (const Tensor& tensor : mo.tensors()) {
    if (!ends(tensor.name, ".weight_scale_2")) continue;
    const float scale = floats(mo, tensor.name)[0];
    ++scales;
    changed += 1 / (1 / scale) != scale;
  }
  const Plan plan = make_retarget_plan(mo, OutputFormat::kCompressedTensors);
  const bool says = std::ranges::any_of(plan.findings, [&](const Finding& finding) {
    return finding.reason.starts_with(std::to_string(changed) + " of " + std::to_string(scales) +
                                      " second-level");
  });
  EXPECT_EQ(says, changed > 0);
}

TEST_F(CompressedTensors, VerifyOfAConversionFindsDamage) {
  quantize_both("nvfp4");
  fs::remove_all(path("ct"));
  retarget(path("mo"), path("ct"), OutputFormat::kCompressedTensors);
  const std::string expert = "model.language_model.layers.0.mlp.experts.1.up_proj";
  for (const char* kind : {".weight_packed", ".weight_scale", ".weight_global_scale", ".input_global_scale"})
    expect_damage("mo", expert + kind, 0);
}

TEST_F(CompressedTensors, ConvertRefusesWhatItCannotCarryOver) {
  quantize_both("nvfp4");
  const auto plan_of = [&](const std::string& name, OutputFormat format) {
    const Checkpoint source = open(path(name));
    return make_retarget_plan(source, format);
  };
  const auto refuse = [&](ErrorKind kind, auto... parts) {
    expect_error(
        kind, [&] { plan_of("ct", OutputFormat::kModelOpt); }, parts...);
  };
  expect_error(
      ErrorKind::kUnsupported, [&] { plan_of("ct", OutputFormat::kCompressedTensors); }, "already");
  expect_error(
      ErrorKind::kBadInput, [&] { make_retarget_plan(open(model()), OutputFormat::kModelOpt); },
      "holds no NVFP4 weights");

  const std::string gate = "model.language_model.layers.0.mlp.experts.0.gate_proj.weight_global_scale";
  const std::string before = tensor_bytes(open(path("ct")), gate);
  for (const float bad : {0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN(), 1e-40f}) {
    edit_tensor(path("ct"), gate, 0, bytes_of<float>({bad}));
    refuse(ErrorKind::kBadInput, gate, "is no scale that can be inverted");
  }
  edit_tensor(path("ct"), gate, 0, bytes_of<float>({3.5f}));
  const Plan plan = plan_of("ct", OutputFormat::kModelOpt);
  EXPECT_TRUE(plan.refused());
  const auto refusal = std::ranges::find(plan.findings, Severity::kRefusal, &Finding::severity);
  EXPECT_THAT(refusal->reason, HasSubstr("engines take one value for both"));
  EXPECT_THAT(refusal->reason, HasSubstr(gate));
}

// The documents promise a scale for every input.
TEST_F(CompressedTensors, ConvertMissesAnInputScale) {
  quantize_both("nvfp4");
  const Checkpoint mo = open(path("mo"));
  std::vector<StoredTensor> stored;
  const std::string lost = "model.language_model.layers.0.mlp.experts.3.down_proj.input_scale";
  for (const Tensor& tensor : mo.tensors())
    if (tensor.name != lost)
      stored.push_back({tensor.name, tensor.dtype, tensor.shape, tensor_bytes(mo, tensor.name)});
  write_checkpoint(path("less"), std::move(stored), mo.config());
  expect_error(
      ErrorKind::kBadInput, [&] { make_retarget_plan(open(path("less")), OutputFormat::kCompressedTensors); },
      "experts.3.down_proj.weight", "lacks its input scale");
}

TEST(CompressedTensorsOptions, AreRecordedByName) {
  EXPECT_EQ(parse_retarget(retarget_text(OutputFormat::kModelOpt)), OutputFormat::kModelOpt);
  EXPECT_EQ(parse_retarget("convert compressed-tensors"), OutputFormat::kCompressedTensors);
  EXPECT_EQ(parse_retarget("convert mxfp4"), std::nullopt);
}

}  // namespace
}  // namespace nibblecast
