#include "plan/plan.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "checkpoint/safetensors.h"
#include "plan/cost.h"
#include "plan/input_scale.h"
#include "plan_testing.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;
using testing::write_source;

class PlanTest : public ::testing::Test {
 protected:
  Checkpoint source() {
    write_source(folder_.path(), edit_);
    return Checkpoint::open(folder_.path(), system_files());
  }
  // Applied to the list of tensors before they are written.
  std::function<void(std::vector<Tensor>&)> edit_;
  TemporaryFolder folder_;
};

TEST_F(PlanTest, AccountsForEveryByte) {
  const Checkpoint in = source();
  const Plan plan = make_plan(in, {});
  ASSERT_EQ(plan.shards.size(), in.shards().size());
  // Every source tensor once; experts' scales become block scales, and each expert weight brings two scalars.
  const uint64_t linears = plan.model.num_hidden_layers * plan.model.n_routed_experts * 3;
  EXPECT_EQ(plan.tensors.size(), in.tensors().size() + 2 * linears);
  for (uint32_t shard = 0; shard < plan.shards.size(); ++shard) {
    uint64_t at = plan.shards[shard].header.size();
    EXPECT_EQ(plan.shards[shard].scalars_begin, at);
    for (const PlannedTensor& tensor : plan.tensors) {
      if (tensor.out.shard != shard) continue;
      EXPECT_EQ(tensor.out.offset, at) << tensor.out.name;
      EXPECT_EQ(tensor.out.offset % dtype_bytes(tensor.out.dtype), 0u) << tensor.out.name;
      at = tensor.out.end();
    }
    EXPECT_EQ(plan.shards[shard].size_bytes, at);
  }
  EXPECT_EQ(plan.index["metadata"]["total_size"], plan.output_bytes);
  EXPECT_EQ(plan.index["weight_map"].size(), plan.tensors.size());
}

TEST_F(PlanTest, StagesCoverAllKeptBytesOnceAndInOrder) {
  const Checkpoint in = source();
  const Plan plan = make_plan(in, {});
  uint64_t copied = 0, kept = 0;
  for (const Stage& stage : plan.stages) {
    for (const uint32_t tensor : stage.kept) copied += plan.tensors[tensor].out.size_bytes;
    for (uint64_t expert = 0; expert < stage.groups.size(); ++expert)
      EXPECT_EQ(stage.groups[expert].expert, expert);
  }
  for (const PlannedTensor& tensor : plan.tensors)
    kept += tensor.make == Make::kKeep ? tensor.out.size_bytes : 0;
  EXPECT_EQ(copied, kept);
  ASSERT_EQ(plan.stages.size(), plan.model.num_hidden_layers + 2);
  EXPECT_FALSE(plan.stages.front().layer);
  EXPECT_EQ(plan.stages[1].layer, 0u);
  EXPECT_FALSE(plan.stages.back().layer);
}

TEST_F(PlanTest, OddSizesKeepWiderTensorsAligned) {
  // An F32 tensor after the experts' one-byte tensors: grown scales would leave it wherever they end.
  edit_ = [](std::vector<Tensor>& tensors) {
    const auto is_sink = [](const Tensor& tensor) { return tensor.name == "layers.0.attn.attn_sink"; };
    std::stable_partition(tensors.begin(), tensors.end(),
                          [&](const Tensor& tensor) { return !is_sink(tensor); });
    // One byte more in front of it: an mtp tensor of one byte.
    tensors.insert(tensors.begin(), {.name = "mtp.0.flag", .dtype = Dtype::kU8, .shape = {1}});
  };
  const Checkpoint in = source();
  for (const PlannedTensor& tensor : make_plan(in, {}).tensors) {
    EXPECT_EQ(tensor.out.offset % dtype_bytes(tensor.out.dtype), 0u) << tensor.out.name;
  }
}

TEST_F(PlanTest, RefusesWhatDoesNotFitByName) {
  const auto refuse = [&](ErrorKind kind, auto edit, const std::string& part) {
    edit_ = edit;
    expect_error(
        kind, [&] { make_plan(source(), {}); }, part);
  };
  refuse(
      ErrorKind::kUnsupported,
      [](std::vector<Tensor>& tensors) {
        tensors.push_back({.name = "layers.0.attn.mystery", .dtype = Dtype::kF32, .shape = {2}});
      },
      "layers.0.attn.mystery");
  refuse(
      ErrorKind::kBadInput,
      [](std::vector<Tensor>& tensors) {
        std::erase_if(tensors, [](const Tensor& t) { return t.name == "layers.1.ffn.gate.weight"; });
      },
      "layers.1.ffn.gate.weight");
  const auto change = [](const std::string& name, auto f) {
    return [name, f](std::vector<Tensor>& tensors) {
      for (Tensor& tensor : tensors) {
        if (tensor.name == name) f(tensor);
      }
    };
  };
  refuse(ErrorKind::kBadInput, change("layers.1.ffn.experts.1.w2.scale", [](Tensor& t) { t.shape[0] -= 1; }),
         "layers.1.ffn.experts.1.w2.scale");
  refuse(ErrorKind::kUnsupported, change("norm.weight", [](Tensor& t) { t.dtype = Dtype::kF16; }),
         "norm.weight");
  // FP8, as in Base releases, has other shapes.
  refuse(ErrorKind::kBadInput,
         change("layers.0.ffn.experts.0.w1.weight", [](Tensor& t) { t.dtype = Dtype::kF8E4M3; }),
         "layers.0.ffn.experts.0.w1.weight");
}

TEST_F(PlanTest, UnknownRecipeIsAUsageError) {
  const Checkpoint in = source();
  QuantizeOptions options;
  options.recipe = "int3";
  expect_error(
      ErrorKind::kUsage, [&] { make_plan(in, options); }, "unknown recipe 'int3'");
}

TEST_F(PlanTest, BoundsComeFromNormWeightsAndClamp) {
  const Checkpoint in = source();
  QuantizeOptions options;
  options.compute_dtype = ComputeDtype::kF32;
  const Plan exact = make_plan(in, options);
  const double expected =
      std::sqrt(static_cast<double>(exact.model.hidden_size));  // the test's norms are all 1
  EXPECT_GE(exact.bounds[0].w13, expected);
  EXPECT_LE(exact.bounds[0].w13, expected * (1 + 1e-6));
  EXPECT_GT(exact.bounds[0].w13_least, 0);
  EXPECT_LE(exact.bounds[0].w13_least, 1);
  EXPECT_GE(exact.bounds[0].w2, 100);
  EXPECT_LE(exact.bounds[0].w2_weighted, 250.001f);
  options.compute_dtype = ComputeDtype::kBF16;
  EXPECT_GE(make_plan(in, options).bounds[0].w13, expected * (1 + 0x1p-7));
}

TEST_F(PlanTest, IdentityHangsOnWhatDecidesTheBytes) {
  const Checkpoint in = source();
  QuantizeOptions options;
  const Json identity = plan_identity(make_plan(in, options), in, "rows");
  EXPECT_EQ(plan_identity(make_plan(in, options), in, "rows"), identity);
  EXPECT_NE(plan_identity(make_plan(in, options), in, "other rows"), identity);
  options.negative_zero = NegativeZero::kModelOpt;
  EXPECT_NE(plan_identity(make_plan(in, options), in, "rows"), identity);
  options = {};
  options.engines = {};  // decides whether, not what
  EXPECT_EQ(plan_identity(make_plan(in, options), in, "rows"), identity);
}

TEST_F(PlanTest, IdentityTellsAFineTuneFromItsBase) {
  const Checkpoint base = source();
  const Plan plan = make_plan(base, {});
  const std::string before = plan_identity(plan, base, "rows").dump();
  for (const char* name : {"layers.1.attn_norm.weight", "layers.0.attn.wq_b.weight", "norm.weight",
                           "layers.1.ffn.experts.0.w2.weight"}) {
    const Tensor& tensor = base.at(name);
    const std::string value(1, '\x07');
    const auto file =
        system_files().open(folder_.path() / base.shards()[tensor.shard].name, Access::kUpdateDirect);
    file->write(tensor.offset, std::as_bytes(std::span(value)));
    file->close();
    const Checkpoint tuned = Checkpoint::open(folder_.path(), system_files());
    EXPECT_EQ(source_identity(tuned), source_identity(base));
    EXPECT_NE(plan_identity(make_plan(tuned, {}), tuned, "rows").dump(), before) << name;
    source();
  }
}

TEST_F(PlanTest, ARecipeThatKeepsEverythingIsRefused) {
  const Checkpoint in = source();
  for (const char* rules :
       {"rules: [{modules: '*.ffn.expert.*', format: nvfp4}]", "rules: []",
        "rules: [{modules: '*', format: keep}]", "rules: [{modules: head, format: bf16}]"}) {
    QuantizeOptions options;
    options.recipe = "mine.yaml", options.recipe_text = rules;
    const Plan plan = make_plan(in, options);
    ASSERT_TRUE(plan.refused()) << rules;
    EXPECT_NE(plan.findings.back().reason.find("no module is quantized"), std::string::npos);
  }
  EXPECT_FALSE(make_plan(in, {}).refused());
}

class InputScaleTest : public PlanTest {
 protected:
  InputScaleTest() {
    const Checkpoint in = source();
    plan_ = make_plan(in, {});
    experts_ = {
        .w13 = {1, 2, 0, 4}, .w2 = {8, 0, 2, 1}, .w2_weighted = {1, 0, 16, 1}, .tokens = {3, 3, 0, 3}};
  }
  LayerInputScales scales() { return layer_input_scales(plan_, 0, experts_, "f"); }
  Plan plan_;
  ExpertAmax experts_;
};

TEST_F(InputScaleTest, LayerPolicyTakesTheLargest) {
  const LayerInputScales found = scales();
  EXPECT_EQ(found.w13, std::vector<float>(4, 4.0f / 2688));
  EXPECT_EQ(found.w2, std::vector<float>(4, 16.0f / 2688));  // the larger of both conventions
}

TEST_F(InputScaleTest, ExpertPolicyFillsInTheLayersLargest) {
  plan_.options.input_scale = InputScalePolicy::kExpert;
  plan_.options.w2_input = W2Input::kUnweighted;
  const LayerInputScales found = scales();
  EXPECT_EQ(found.w13, (std::vector<float>{1.0f / 2688, 2.0f / 2688, 4.0f / 2688, 4.0f / 2688}));
  EXPECT_EQ(found.w2, (std::vector<float>{8.0f / 2688, 8.0f / 2688, 2.0f / 2688, 1.0f / 2688}));
}

TEST_F(InputScaleTest, RefusesGarbage) {
  const auto refuse = [&](float value, const std::string& part) {
    experts_.w13[1] = value;
    expect_error(
        ErrorKind::kBadInput, [&] { scales(); }, "layers.0.ffn.experts.w13.input_amax", part);
  };
  refuse(std::numeric_limits<float>::quiet_NaN(), "expert 1");
  refuse(std::numeric_limits<float>::infinity(), "expert 1");
  refuse(-1, "expert 1");
  refuse(1e30f, "expert 1");
  experts_.w13.assign(4, 0);
  expect_error(
      ErrorKind::kBadInput, [&] { scales(); }, "every amax of this layer is 0");
  experts_.w13.resize(3);
  expect_error(
      ErrorKind::kBadInput, [&] { scales(); }, "expected 4 values, found 3");
}

TEST_F(PlanTest, AConstantInputScaleNeedsNoActivations) {
  QuantizeOptions options;
  ASSERT_TRUE(parse_input_scale("1.0", options));
  const Checkpoint in = source();
  const Plan plan = make_plan(in, options);
  EXPECT_TRUE(make_plan(in, {}).needs_activations());
  EXPECT_FALSE(plan.needs_activations());
  EXPECT_TRUE(plan.findings.empty());  // the weights prove that nothing can clip
  EXPECT_NE(plan_identity(plan, in, "none"), plan_identity(make_plan(in, {}), in, "none"));
}

TEST_F(PlanTest, AConstantThatCouldClipIsAWarningWithBothNumbers) {
  QuantizeOptions options;
  ASSERT_TRUE(parse_input_scale("0.001", options));
  const Plan plan = make_plan(source(), options);
  ASSERT_EQ(plan.findings.size(), 1u);
  EXPECT_NE(plan.findings[0].reason.find("up to 2.688; in 2 of 2 layers"), std::string::npos)
      << plan.findings[0].reason;
  options.recipe = "nvfp4";
  ASSERT_TRUE(parse_input_scale("1", options));
  const std::vector<Finding> dense = make_plan(source(), options).findings;
  EXPECT_TRUE(std::ranges::any_of(dense, [](const Finding& finding) {
    return finding.reason.find("no bound for the inputs of") != std::string::npos;
  }));
}

TEST(InputScaleOption, TakesPoliciesAndNumbersAboveZero) {
  for (const char* text : {"layer", "expert", "1", "0.5", "0.00037202382"}) {
    QuantizeOptions options;
    EXPECT_TRUE(parse_input_scale(text, options)) << text;
    EXPECT_EQ(input_scale_text(options), text);
  }
  for (const char* text : {"", "0", "-1", "nan", "inf", "1e99", "1x", "max", " 1"}) {
    QuantizeOptions options;
    EXPECT_FALSE(parse_input_scale(text, options)) << text;
    EXPECT_EQ(options.input_scale, InputScalePolicy::kLayer);
  }
}

TEST_F(PlanTest, MemoryShrinksToTheLimitAndSaysWhenItCannot) {
  const Checkpoint in = source();
  const Plan plan = make_plan(in, {});
  const MemoryCost usual = memory_cost(in, plan, {}, 2, std::numeric_limits<uint64_t>::max());
  const MemoryCost least = memory_cost(in, plan, {}, 2, 0);
  EXPECT_LT(least.peak_bytes(), usual.peak_bytes());
  EXPECT_TRUE(check_memory(usual, usual.peak_bytes()).empty());
  const std::vector<Finding> findings = check_memory(least, least.peak_bytes() - 7);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_NE(findings[0].reason.find("7 bytes short"), std::string::npos) << findings[0].reason;
}

TEST(CostTest, DiskFindingHasTheNumbers) {
  EXPECT_TRUE(check_disk(10, 10, "/d").empty());
  const std::vector<Finding> findings = check_disk(100, 40, "/d");
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_NE(findings[0].reason.find("60 bytes short"), std::string::npos) << findings[0].reason;
}

TEST(CostTest, DiskProbeLeavesNothing) {
  TemporaryFolder folder;
  const auto rates = probe_disk(system_files(), folder.path() / "not/yet/there");
  EXPECT_GT(rates.value_or(DiskRates{1, 1}).read_bytes_per_second, 0);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace nibblecast
