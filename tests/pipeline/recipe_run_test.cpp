// What a recipe says of each linear, through the whole pipeline: a run makes it, verify finds it right, and
// nothing that is wrong with it goes unseen.
#include <gmock/gmock.h>

#include <cstring>
#include <set>

#include "base/parallel.h"
#include "faults/memory_files.h"
#include "pipeline/verify.h"
#include "pipeline_testing.h"

namespace nibblecast {
namespace {

using ::testing::Contains;
using testing::describe;
using testing::expect_error;
using ::testing::HasSubstr;
using testing::MemoryFiles;
using testing::plain_amax;
using testing::run_job;
using testing::small_buffers;
using testing::tiny_rows;

// Every format and method, and groups of linears that share a scale with members of another format.
constexpr const char* kMixed = R"(
kv_cache: fp8_cast
rules:
  - modules: "layers.*"
    format: nvfp4
  - modules: "*.ffn.gate"
    format: keep
  - modules: "*.attn.wo_a"
    format: bf16
  - modules: [embed, layers.3.ffn.gate]
    format: f32
  - modules: layers.0.ffn.experts.*
    format: keep
  - modules: layers.1.ffn.experts.*
    format: nvfp4
    quantize_input: false
  - modules: layers.2.ffn.experts.*
    format: nvfp4
    weight_method: mse
  - modules: layers.2.ffn.experts.1.*
    format: nvfp4
    weight_method: four_over_six
  - modules: layers.2.ffn.experts.2.w2
    format: nvfp4
    weight_method: cast
  - modules: layers.3.ffn.experts.*
    format: fp8
  - modules: layers.4.ffn.experts.*
    format: bf16
  - modules: layers.4.ffn.shared_experts.*
    format: nvfp4
    weight_method: four_over_six
  - modules: [layers.0.attn.wq_a, layers.2.attn.indexer.wq_b, layers.1.ffn.shared_experts.*]
    format: fp8
  - modules: layers.3.attn.wkv
    format: fp8
    quantize_input: false
  - modules: layers.1.attn.wkv
    format: nvfp4
    quantize_input: false
  - modules: layers.2.attn.wq_a
    format: nvfp4
    quantize_input: false
  - modules: [layers.1.attn.wq_b, layers.1.attn.compressor.*, layers.2.attn.wo_a]
    format: fp8_block
  - modules: layers.4.attn.wq_a
    format: f32
)";

constexpr const char* kBlocks = R"(
rules:
  - modules: "*.ffn.experts.*"
    format: fp8_block
  - modules: ["*.shared_experts.*", head]
    format: f32
)";

class RecipeRunTest : public ::testing::Test {
 protected:
  explicit RecipeRunTest(bool fp8_experts = false) {
    synthesize(preset_config("v4-tiny"), "v4-tiny", {.experts = 4, .fp8_experts = fp8_experts}, "/source",
               files_);
    source_.emplace(Checkpoint::open("/source", files_));
    write_text("/mixed.yaml", kMixed);
    write_text("/blocks.yaml", kBlocks);
  }

  void write_text(const std::filesystem::path& path, const std::string& text) {
    files_.open(path, Access::kCreate)->write(0, std::as_bytes(std::span(text)));
  }

  Plan plan_of(const std::string& recipe, std::optional<RecipeMethod> method = {}) const {
    QuantizeOptions options;
    options.recipe = recipe;
    options.weight_method = method;
    options.engines = {};
    Plan plan = make_plan(*source_, options);
    EXPECT_FALSE(plan.refused());
    return plan;
  }

  static Activations amax_of(const Plan& plan) {
    if (!plan.needs_activations()) return {};
    return {.rows = {}, .amax = plain_amax(plan), .origin = "test", .identity = "a"};
  }

  static Activations rows_of(const Plan& plan) {
    if (!plan.needs_activations()) return {};
    return Activations::from_rows(tiny_rows(plan.model->vocabulary.size, 2, 32), "test");
  }

  std::vector<std::string> problems(const std::filesystem::path& output) {
    return verify(*source_, output, files_, {.engines = {}}).problems;
  }

  void run_and_verify(const Plan& plan, const Activations& activations) {
    files_.remove("/out");
    run_job(*source_, plan, activations, "/out");
    const VerifyReport report = verify(*source_, "/out", files_, {.engines = {}});
    EXPECT_THAT(report.problems, ::testing::IsEmpty());
    EXPECT_EQ(report.tensors, plan.tensors.size());
  }

  // nibblecast.json holds times.
  std::map<std::string, std::string> contents(const std::filesystem::path& folder) const {
    std::map<std::string, std::string> found = files_.contents(folder);
    found.erase("nibblecast.json");
    return found;
  }

  // Calls edit(bytes) with a tensor's bytes and writes them back.
  template <class F>
  void edit_tensor(const std::filesystem::path& folder, const std::string& name, const F& edit) {
    const Checkpoint checkpoint = Checkpoint::open(folder, files_);
    const Tensor& tensor = checkpoint.at(name);
    const auto file = files_.open(folder / checkpoint.shards()[tensor.shard].name, Access::kUpdateDirect);
    std::vector<std::byte> bytes(tensor.size_bytes);
    file->read(tensor.offset, bytes);
    edit(std::span(bytes));
    file->write(tensor.offset, bytes);
  }

  MemoryFiles files_;
  std::optional<Checkpoint> source_;
};

TEST_F(RecipeRunTest, EveryBuiltInRecipeIsMadeAndFoundRight) {
  for (const std::string& recipe : built_in_recipes()) {
    SCOPED_TRACE(recipe);
    const Plan plan = plan_of(recipe);
    run_and_verify(plan, amax_of(plan));
  }
}

TEST_F(RecipeRunTest, EveryMethodIsMadeAndFoundRight) {
  for (const RecipeMethod method : {RecipeMethod::kMax, RecipeMethod::kMse, RecipeMethod::kFourOverSix}) {
    SCOPED_TRACE(recipe_method_name(method));
    const Plan plan = plan_of("nvfp4", method);
    run_and_verify(plan, amax_of(plan));
  }
}

TEST_F(RecipeRunTest, RecipesOfOnesOwn) {
  for (const char* recipe : {"/mixed.yaml", "/blocks.yaml"}) {
    SCOPED_TRACE(recipe);
    const Plan plan = plan_of(recipe);
    run_and_verify(plan, amax_of(plan));
    run_and_verify(plan, rows_of(plan));
  }
}

// The output holds the text of its recipe.
TEST_F(RecipeRunTest, ARecipesFileMayGoOrChangeAfterTheRun) {
  const Plan plan = plan_of("/mixed.yaml");
  run_and_verify(plan, amax_of(plan));
  files_.remove("/mixed.yaml");
  EXPECT_THAT(problems("/out"), ::testing::IsEmpty());
  write_text("/mixed.yaml", kBlocks);
  EXPECT_THAT(problems("/out"), ::testing::IsEmpty());
}

TEST_F(RecipeRunTest, TheMixedRecipeReachesEveryMake) {
  std::set<Make> makes;
  for (const PlannedTensor& planned : plan_of("/mixed.yaml").tensors) makes.insert(planned.make);
  for (const Make make :
       {Make::kKeep, Make::kCastWeight, Make::kNvfp4Weight, Make::kFp8Weight, Make::kFp8BlockWeight,
        Make::kWideWeight, Make::kBlockScale, Make::kWeightScale, Make::kInputScale})
    EXPECT_TRUE(makes.contains(make)) << static_cast<int>(make);
}

TEST_F(RecipeRunTest, BytesDoNotDependOnThreadsOrMemory) {
  const Plan plan = plan_of("/mixed.yaml");
  run_job(*source_, plan, rows_of(plan), "/a");
  {
    const ThreadLimit one(1);
    run_job(*source_, plan, rows_of(plan), "/b", small_buffers(1));
  }
  EXPECT_EQ(contents("/a"), contents("/b"));
}

TEST_F(RecipeRunTest, StoppedAnywhereAndResumedItIsTheSame) {
  struct Stop {};
  for (const char* recipe : {"/mixed.yaml", "nvfp4"}) {
    const Plan plan = plan_of(recipe);
    const Activations rows = rows_of(plan);
    files_.remove("/whole");
    const RunRecord whole = run_job(*source_, plan, rows, "/whole");
    EXPECT_FALSE(whole.losses.empty());
    for (const size_t steps : {3u, 40u, 41u, 97u, 150u}) {
      SCOPED_TRACE(recipe + (" " + std::to_string(steps)));
      files_.remove("/out");
      RunOptions options = small_buffers();
      options.commit_interval = std::chrono::milliseconds(1);
      RunRecord record;
      for (size_t attempts = 0; attempts < 200; ++attempts) {
        size_t left = steps + attempts;  // an attempt gets further than the one before
        options.progress = [&](const Progress&) {
          if (left-- == 0) throw Stop();
        };
        try {
          record = run_job(*source_, plan, rows, "/out", options);
          break;
        } catch (const Stop&) {
        }
      }
      EXPECT_EQ(contents("/out"), contents("/whole"));
      ASSERT_EQ(record.losses.size(), whole.losses.size());
      for (const auto& [name, loss] : whole.losses) {
        EXPECT_EQ(record.losses.at(name).squared_error, loss.squared_error) << name;
        EXPECT_EQ(record.losses.at(name).squares, loss.squares) << name;
      }
      EXPECT_EQ(record.inexact, whole.inexact);
    }
  }
}

// One byte of each, at a time as many as a report has room for.
TEST_F(RecipeRunTest, DamageToAMadeTensorIsAProblemThatNamesIt) {
  const Plan plan = plan_of("/mixed.yaml");
  run_job(*source_, plan, rows_of(plan), "/out");
  const std::vector<std::string> names = {
      "layers.0.attn.wq_b.weight",                 // NVFP4 by max
      "layers.0.attn.wq_b.weight_scale",           //
      "layers.0.attn.wq_b.weight_scale_2",         //
      "layers.0.attn.wq_b.input_scale",            //
      "layers.0.attn.wq_a.weight",                 // FP8
      "layers.0.attn.wq_a.weight_scale",           //
      "layers.0.attn.wq_a.input_scale",            //
      "layers.1.attn.compressor.wkv.weight",       // FP8 in blocks
      "layers.1.attn.compressor.wkv.scale",        //
      "layers.1.attn.wo_a.weight",                 // BF16
      "embed.weight",                              // F32
      "layers.0.ffn.experts.3.w1.scale",           // kept
      "layers.2.ffn.experts.0.w1.weight",          // by mse
      "layers.2.ffn.experts.0.w2.weight_scale",    //
      "layers.2.ffn.experts.1.w3.weight_scale_2",  // by four_over_six
      "layers.2.ffn.experts.2.w2.weight",          // cast in an expert that else is not
      "layers.2.ffn.experts.2.w2.weight_scale_2",  //
      "layers.2.ffn.experts.2.w1.weight",          //
      "layers.3.ffn.experts.1.w2.weight",          // FP8
      "layers.3.ffn.experts.1.w2.weight_scale",    //
      "layers.3.ffn.experts.1.w2.input_scale",     //
      "layers.4.ffn.experts.3.w3.weight",          // BF16
  };
  for (const size_t at : {0u, 777u}) {
    const auto flip = [&](std::span<std::byte> bytes) { bytes[at % bytes.size()] ^= std::byte{1}; };
    for (const std::string& name : names) edit_tensor("/out", name, flip);
    const std::vector<std::string> found = problems("/out");
    for (const std::string& name : names) EXPECT_THAT(found, Contains(HasSubstr(name + ":"))) << at;
    for (const std::string& name : names) edit_tensor("/out", name, flip);
  }
  EXPECT_THAT(problems("/out"), ::testing::IsEmpty());
}

TEST_F(RecipeRunTest, LinearsThatShareAScaleHaveOneMethod) {
  const auto expect_refusal = [&](const std::string& module, const std::string& name) {
    write_text("/odd.yaml",
               "rules:\n  - {modules: '*.attn.w[qk]*', format: nvfp4}\n  - {modules: '*.ffn.experts.*', "
               "format: nvfp4}\n  - {modules: '" +
                   module + "', format: nvfp4, weight_method: four_over_six}\n");
    expect_error(
        ErrorKind::kUnsupported, [&] { plan_of("/odd.yaml"); }, name, "weight_method");
  };
  expect_refusal("layers.1.ffn.experts.2.w3", "layers.1.ffn.experts.2.w3.weight");
  expect_refusal("layers.1.attn.wq_a", "layers.1.attn.w");
}

TEST_F(RecipeRunTest, AWeightThatIsNotFiniteIsRefusedByNameRowAndColumn) {
  const std::string fp8 = "layers.1.attn.wo_b.weight", plain = "layers.2.attn.compressor.wgate.weight";
  const Plan plan = plan_of("nvfp4");
  const auto expect_refusal_at = [&](uint64_t row, const std::string& name, size_t element_bytes,
                                     uint16_t bits) {
    const uint64_t cols = source_->at(name).shape[1], col = 5;
    std::vector<std::byte> before;
    edit_tensor("/source", name, [&](std::span<std::byte> bytes) {
      before.assign(bytes.begin(), bytes.end());
      std::memcpy(&bytes[(row * cols + col) * element_bytes], &bits, element_bytes);
    });
    files_.remove("/out");
    expect_error(
        ErrorKind::kBadInput, [&] { run_job(*source_, plan, amax_of(plan), "/out"); }, name,
        "row " + std::to_string(row) + ", column 5");
    edit_tensor("/source", name,
                [&](std::span<std::byte> bytes) { std::ranges::copy(before, bytes.begin()); });
  };
  // Rows that different threads may make.
  const auto expect_refusal = [&](const std::string& name, size_t element_bytes, uint16_t bits) {
    for (const uint64_t row : {uint64_t{3}, source_->at(name).shape[0] - 1})
      expect_refusal_at(row, name, element_bytes, bits);
  };
  expect_refusal(fp8, 1, 0x7f);
  expect_refusal(fp8, 1, 0xff);
  expect_refusal(plain, 2, 0x7fc0);  // NaN
  expect_refusal(plain, 2, 0x7f80);  // infinite
  expect_refusal(plain, 2, 0xff80);
}

// V4-Base: FP8 experts, F32 scales that are no powers of two.
class BaseRunTest : public RecipeRunTest {
 protected:
  BaseRunTest() : RecipeRunTest(true) {}
};

TEST_F(BaseRunTest, SynthMakesItsLayout) {
  for (const char* module : {"layers.0.attn.wq_a", "layers.1.ffn.experts.3.w2", "mtp.0.ffn.experts.0.w1"}) {
    EXPECT_EQ(source_->at(std::string(module) + ".weight").dtype, Dtype::kF8E4M3) << module;
    EXPECT_EQ(source_->at(std::string(module) + ".scale").dtype, Dtype::kF32) << module;
  }
  EXPECT_EQ(source_->at("layers.1.ffn.experts.3.w2.scale").shape, (Shape{2, 1}));
}

TEST_F(BaseRunTest, CastMeansMaxThere) {
  const Plan plan = plan_of("nvfp4_experts_only");
  for (const PlannedTensor& planned : plan.tensors) EXPECT_NE(planned.make, Make::kCastWeight);
  run_and_verify(plan, amax_of(plan));
  const auto cast = contents("/out");
  files_.remove("/out");
  run_job(*source_, plan_of("nvfp4_experts_only", RecipeMethod::kMax), amax_of(plan), "/out");
  for (const auto& [path, bytes] : contents("/out")) {
    if (!path.ends_with(".safetensors")) continue;  // the documents name the method
    EXPECT_TRUE(bytes == cast.at(path)) << path;
  }
}

TEST_F(BaseRunTest, GoesThroughEveryRecipeCalibratedOrWithAnAmaxFile) {
  for (const char* recipe : {"nvfp4_experts_only", "nvfp4", "/mixed.yaml", "/blocks.yaml"}) {
    SCOPED_TRACE(recipe);
    const Plan plan = plan_of(recipe);
    run_and_verify(plan, amax_of(plan));
    run_and_verify(plan, rows_of(plan));
  }
}

// Its draft experts stay FP8, which vLLM and SGLang read as MXFP4; of all else there is no complaint.
TEST_F(BaseRunTest, EnginesLoadItsExpertsInNvfp4ButNotItsDrafts) {
  const Plan plan = make_plan(*source_, {});
  size_t refusals = 0;
  for (const Finding& finding : plan.findings) {
    if (finding.severity != Severity::kRefusal) continue;
    ++refusals;
    EXPECT_NE(finding.reason.find("mtp.0.ffn.experts"), std::string::npos) << finding.reason;
  }
  EXPECT_EQ(refusals, 2u);
}

}  // namespace
}  // namespace nibblecast
