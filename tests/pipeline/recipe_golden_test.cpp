// The shared tiny DeepSeek-V4 by recipe, against the hashes of what ModelOpt made of the same model.
#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "pipeline_testing.h"
#include "sha256.h"

namespace nibblecast {
namespace {

using testing::plain_amax;
using testing::run_job;
using testing::Sha256;
using testing::shared_model;
using testing::TemporaryFolder;

TEST(Sha256, OfTheStandardsExamples) {
  const auto hash_of = [](const std::string& text) { return Sha256::hex(std::as_bytes(std::span(text))); };
  EXPECT_EQ(hash_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hash_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

// Of name -> [dtype, shape, hash, ...]; input scales hang on the activations and are left out.
void expect_hashes(const std::filesystem::path& output, const Json& golden, size_t tensors) {
  const Checkpoint checkpoint = Checkpoint::open(output, system_files());
  TensorReader reader(checkpoint);
  size_t compared = 0;
  for (const auto& [name, entry] : golden.items()) {
    if (name.ends_with(".input_scale")) continue;
    const Tensor* tensor = checkpoint.find(name);
    ASSERT_NE(tensor, nullptr) << name;
    EXPECT_EQ(dtype_name(tensor->dtype), entry[0].get<std::string>()) << name;
    EXPECT_EQ(tensor->shape, entry[1].get<Shape>()) << name;
    EXPECT_EQ(Sha256::hex(reader.read(*tensor)), entry[2].get<std::string>()) << name;
    ++compared;
  }
  EXPECT_EQ(compared, tensors);
}

void expect_as_modelopt(const std::string& recipe, const char* file, const char* part, size_t tensors) {
  const std::filesystem::path model = shared_model("tiny-v4"), modelopt = shared_model("tiny-v4-modelopt");
  if (model.empty() || modelopt.empty()) GTEST_SKIP() << "no shared models";
  QuantizeOptions options;
  options.recipe = recipe;
  options.weight_method = RecipeMethod::kMax;
  options.engines = {};
  const Checkpoint source = Checkpoint::open(model, system_files());
  const Plan plan = make_plan(source, options);
  const TemporaryFolder folder;
  run_job(source, plan, {.rows = {}, .amax = plain_amax(plan), .origin = "test", .identity = "a"},
          folder.path() / "out");
  const Json golden = parse_json(read_text(system_files(), modelopt / file, 1 << 24), file);
  expect_hashes(folder.path() / "out", part == nullptr ? golden : golden.at(part), tensors);
}

TEST(RecipeGolden, TheFullPresetIsModelOptsToTheByte) {
  expect_as_modelopt("nvfp4", "nvfp4-full.json", nullptr, 350 * 3);
}

TEST(RecipeGolden, ExpertsByMaxAreModelOptsToTheByte) {
  expect_as_modelopt("nvfp4_experts_only", "sha256.json", "max", 6 * 16 * 3 * 3);
}

}  // namespace
}  // namespace nibblecast
