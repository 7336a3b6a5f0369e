#include "plan/plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "checkpoint/safetensors.h"
#include "model/families/deepseek_v4/family.h"
#include "plan/cost.h"
#include "plan/input_scale.h"
#include "plan_testing.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::sort_by_width;
using testing::TemporaryFolder;
using testing::write_source;

class PlanTest : public ::testing::Test {
 protected:
  Checkpoint source() {
    write_source(folder_.path(), edit_);
    return Checkpoint::open(folder_.path(), system_files());
  }
  // Of the first layer.
  static const Tap& tap(const Plan& plan, std::string_view name) {
    return *std::ranges::find(plan.model->table.layers[0].taps, name, &Tap::name);
  }
  static TapBound bound(const Plan& plan, std::string_view name) {
    return plan.bounds[0][static_cast<size_t>(&tap(plan, name) - plan.model->table.layers[0].taps.data())];
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
  const uint64_t linears = plan.layers() * plan.model->table.most_experts() * 3;
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
  ASSERT_EQ(plan.stages.size(), plan.layers() + 2);
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
  refuse(ErrorKind::kUnsupported, change("norm.weight", [](Tensor& t) { t.dtype = Dtype::kF64; }),
         "norm.weight");
  // FP8, as in Base releases, has other shapes.
  refuse(ErrorKind::kBadInput,
         change("layers.0.ffn.experts.0.w1.weight", [](Tensor& t) { t.dtype = Dtype::kF8E4M3; }),
         "layers.0.ffn.experts.0.w1.scale");
  // A linear that releases quantize, and this checkpoint does not.
  refuse(ErrorKind::kUnsupported,
         change("layers.0.attn.wq_a.weight", [](Tensor& t) { t.dtype = Dtype::kBF16; }),
         "layers.0.attn.wq_a.weight");
  refuse(ErrorKind::kUnsupported,
         change("layers.0.ffn.gate.tid2eid", [](Tensor& t) { t.dtype = Dtype::kU64; }),
         "expected I64 or I32, found U64");
  refuse(ErrorKind::kBadInput, change("layers.1.ffn.gate.bias", [](Tensor& t) { t.shape[0] += 1; }),
         "layers.1.ffn.gate.bias");
}

// Spellings of one meaning: all are read, and what is kept stays as it is.
TEST_F(PlanTest, TakesTheSpellingsOfOneMeaning) {
  edit_ = [](std::vector<Tensor>& tensors) {
    for (Tensor& tensor : tensors) {
      const std::string& name = tensor.name;
      if (name.ends_with("norm.weight") || name.ends_with("ffn.gate.weight")) tensor.dtype = Dtype::kF32;
      if (name.ends_with("tid2eid")) tensor.dtype = Dtype::kI32;
      if (name.find(".experts.") != name.npos && name.ends_with(".w2.weight"))
        tensor.dtype = Dtype::kF4, tensor.shape[1] *= 2;
      else if (name.find(".experts.") != name.npos)
        tensor.dtype = Dtype::kU8;  // nibbles and E8M0 scales
      else if (name.ends_with(".attn.wq_a.scale"))
        tensor.name.replace(name.size() - 5, 5, "weight_scale_inv"), tensor.dtype = Dtype::kF32;
    }
    sort_by_width(tensors);
  };
  const Checkpoint in = source();
  QuantizeOptions options;
  options.engines = {};
  const Plan plan = make_plan(in, options);
  for (const Finding& finding : plan.findings)
    EXPECT_NE(finding.severity, Severity::kRefusal) << finding.reason;
  EXPECT_TRUE(make_plan(in, {}).refused());  // engines know routers in BF16 alone
  EXPECT_EQ(plan.tensors.size(), in.tensors().size() + 2 * plan.layers() * 4 * 3);
  for (const PlannedTensor& tensor : plan.tensors) {
    if (tensor.make != Make::kKeep) continue;
    EXPECT_EQ(tensor.out.dtype, in.at(tensor.out.name).dtype) << tensor.out.name;
  }
  const PlannedLinear& expert = plan.stages[1].groups[0].linears[0];
  EXPECT_EQ(plan.tensors[expert.weight].make, Make::kCastWeight);
  EXPECT_EQ(expert.source.format.stored, StoredFormat::kMxfp4);
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
  const double width = static_cast<double>(tap(exact, v4_tap::kExpertsIn).width);
  const double expected = std::sqrt(width);  // the test's norms are all 1
  const TapBound in_bound = bound(exact, v4_tap::kExpertsIn), mid = bound(exact, v4_tap::kExpertsMid);
  EXPECT_GE(in_bound.most, expected);
  EXPECT_LE(in_bound.most, expected * (1 + 1e-6));
  EXPECT_GT(in_bound.least, 0);
  EXPECT_LE(in_bound.least, 1);
  EXPECT_GE(mid.most, 100);
  EXPECT_LE(mid.most, 100.001f);
  EXPECT_GE(mid.most_weighted, 250);
  EXPECT_LE(mid.most_weighted, 250.001f);
  EXPECT_TRUE(std::isinf(bound(exact, v4_tap::kAttentionIn).most));
  options.compute_dtype = ComputeDtype::kBF16;
  EXPECT_GE(bound(make_plan(in, options), v4_tap::kExpertsIn).most, expected * (1 + 0x1p-7));
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
    amax_ = {.layer = 0,
             .taps = {{"experts.in", {1, 2, 0, 4}},
                      {"experts.mid", {8, 0, 2, 1}},
                      {"experts.mid_weighted", {1, 0, 16, 1}},
                      {"attn.in", {3}}},
             .tokens = {3, 3, 0, 3}};
  }
  std::vector<float> scales(const char* name) {
    std::vector<float> found = tap_amax(plan_, tap(plan_, name), amax_, "f");
    for (float& value : found) value = input_scale_of(Make::kNvfp4Weight, value);
    return found;
  }
  Plan plan_;
  LayerAmax amax_;
};

TEST_F(InputScaleTest, LayerPolicyTakesTheLargest) {
  EXPECT_EQ(scales("experts.in"), std::vector<float>(4, 4.0f / 2688));
  EXPECT_EQ(scales("experts.mid"), std::vector<float>(4, 16.0f / 2688));  // the larger of both conventions
}

TEST_F(InputScaleTest, ExpertPolicyFillsInTheLayersLargest) {
  plan_.options.input_scale = InputScalePolicy::kExpert;
  plan_.options.w2_input = W2Input::kUnweighted;
  EXPECT_EQ(scales("experts.in"), (std::vector<float>{1.0f / 2688, 2.0f / 2688, 4.0f / 2688, 4.0f / 2688}));
  EXPECT_EQ(scales("experts.mid"), (std::vector<float>{8.0f / 2688, 8.0f / 2688, 2.0f / 2688, 1.0f / 2688}));
}

TEST_F(InputScaleTest, WeightedInputsCountAlone) {
  plan_.options.input_scale = InputScalePolicy::kExpert;
  plan_.options.w2_input = W2Input::kWeighted;
  amax_.taps.erase("experts.mid");
  EXPECT_EQ(scales("experts.mid"),
            (std::vector<float>{1.0f / 2688, 16.0f / 2688, 16.0f / 2688, 1.0f / 2688}));
}

TEST_F(InputScaleTest, AnInputWithoutExpertsHasOneValue) {
  for (const InputScalePolicy policy : {InputScalePolicy::kLayer, InputScalePolicy::kExpert}) {
    plan_.options.input_scale = policy;
    EXPECT_EQ(scales("attn.in"), std::vector<float>{3.0f / 2688});
  }
  for (const float value : {0.0f, -1.0f, std::numeric_limits<float>::infinity(), 1e-45f}) {
    amax_.taps["attn.in"] = {value};
    expect_error(
        ErrorKind::kBadInput, [&] { scales("attn.in"); }, "f", "layers.0.attn.in.amax");
  }
}

TEST_F(InputScaleTest, RefusesGarbage) {
  const auto refuse = [&](float value, const std::string& part) {
    amax_.taps["experts.in"][1] = value;
    expect_error(
        ErrorKind::kBadInput, [&] { scales("experts.in"); }, "layers.0.experts.in.amax", part);
  };
  refuse(std::numeric_limits<float>::quiet_NaN(), "expert 1");
  refuse(std::numeric_limits<float>::infinity(), "expert 1");
  refuse(-1, "expert 1");
  refuse(1e30f, "expert 1");
  amax_.taps["experts.in"].assign(4, 0);
  expect_error(
      ErrorKind::kBadInput, [&] { scales("experts.in"); },
      "every amax of this layer is 0: whatever the token, what entered was 0", "embedding");
  amax_.tokens.assign(4, 0);
  expect_error(
      ErrorKind::kBadInput, [&] { scales("experts.in"); },
      "every amax of this layer is 0: no expert saw a token", "calibrate with more text");
  amax_.taps["experts.in"].resize(3);
  expect_error(
      ErrorKind::kBadInput, [&] { scales("experts.in"); }, "expected 4 values, found 3");
  amax_.taps.erase("experts.in");
  expect_error(
      ErrorKind::kBadInput, [&] { scales("experts.in"); }, "expected 4 values, found none");
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
