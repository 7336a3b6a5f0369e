// Second moments from the calibration pass to the weights that are made by wmse, through the whole pipeline.
#include "plan/second_moments.h"

#include <gmock/gmock.h>

#include <cmath>

#include "base/parallel.h"
#include "calibration/amax_file.h"
#include "faults/memory_files.h"
#include "pipeline/preflight.h"
#include "pipeline/verify.h"
#include "pipeline_testing.h"
#include "plan/amax_fit.h"
#include "small_models.h"

namespace nibblecast {
namespace {

using ::testing::Contains;
using testing::describe;
using testing::expect_error;
using ::testing::HasSubstr;
using testing::MemoryFiles;
using testing::run_job;
using testing::small_buffers;
using testing::SmallModel;
using testing::tiny_rows;

struct Stop {};

class SecondMomentsRun : public ::testing::TestWithParam<SmallModel> {
 protected:
  SecondMomentsRun() {
    testing::smallest(GetParam()).make("/source", files_);
    source_.emplace(Checkpoint::open("/source", files_));
  }

  Plan plan_of(const QuantizeOptions& options) const { return make_plan(*source_, options); }
  Plan calibration(bool moments = true) const {
    QuantizeOptions options;
    options.second_moments = moments;
    return plan_of(options);
  }
  Plan quantization(std::optional<RecipeMethod> method) const {
    QuantizeOptions options;
    options.recipe = "nvfp4";
    options.weight_method = method;
    options.engines = {};
    return plan_of(options);
  }

  void calibrate_to(const std::string& amax, const Plan& plan, RunOptions options = small_buffers()) {
    const Activations rows = Activations::from_rows(tiny_rows(plan.model->vocabulary.size), "test");
    options.amax_output = amax;
    Job job = Job::open(files_, amax + ".job", {}, describe(*source_, plan, rows));
    calibrate(*source_, plan, rows, job, options);
    job.close();
  }
  std::string bytes(const std::string& path) { return read_text(files_, path, 1 << 24); }
  std::vector<std::string> problems() { return verify(*source_, "/out", files_, {.engines = {}}).problems; }

  MemoryFiles files_;
  std::optional<Checkpoint> source_;
};

TEST_P(SecondMomentsRun, AreThereForEveryInputOfALinear) {
  const Plan plan = calibration();
  calibrate_to("/amax", plan);
  const AmaxFile amax = read_amax(files_, "/amax");
  ASSERT_EQ(amax.layers.size(), plan.layers());
  for (const LayerAmax& layer : amax.layers) {
    const LayerTable& table = plan.model->table.layers[layer.layer];
    for (size_t index = 0; index < table.taps.size(); ++index) {
      const Tap& tap = table.taps[index];
      if (table.channels_of(index) == 0) continue;
      EXPECT_EQ(moments_misfit(table, tap, layer), "") << tap.name;
      const std::vector<float>& moments = layer.second_moments.at(tap.name);
      // No mean of squares is above the square of the largest; and of something.
      const auto& largest = layer.taps.at(tap.name);
      const float most = *std::ranges::max_element(largest);
      // What DeepSeek-V4's experts hand to w2 is times the routing weight.
      const float times =
          tap.weighted ? *std::ranges::max_element(layer.taps.at(weighted_tap(tap.name))) : most;
      const float highest = *std::ranges::max_element(moments);
      EXPECT_GT(highest, 0) << tap.name;
      EXPECT_LE(highest, std::max(most, times) * std::max(most, times) * 1.0001f) << tap.name;
    }
  }
}

TEST_P(SecondMomentsRun, ChangeNothingElseOfTheFile) {
  calibrate_to("/with", calibration());
  calibrate_to("/without", calibration(false));
  AmaxFile with = read_amax(files_, "/with");
  for (LayerAmax& layer : with.layers) layer.second_moments.clear();
  EXPECT_EQ(with.layers, read_amax(files_, "/without").layers);
}

TEST_P(SecondMomentsRun, AreTheSameAfterAnInterruptionAndWithAnyThreads) {
  const Plan plan = calibration();
  calibrate_to("/amax", plan);
  {
    const ThreadLimit one(1);
    calibrate_to("/one", plan);
  }
  EXPECT_EQ(bytes("/one"), bytes("/amax"));
  RunOptions until_one = small_buffers();
  until_one.progress = [](const Progress& progress) {
    if (progress.stage == "layer 1") throw Stop();
  };
  EXPECT_THROW(calibrate_to("/again", plan, until_one), Stop);
  EXPECT_EQ(read_amax(files_, "/again").layers.size(), 1u);
  calibrate_to("/again", plan);
  EXPECT_EQ(bytes("/again"), bytes("/amax"));
}

TEST_P(SecondMomentsRun, WmseIsMadeAndFoundRight) {
  calibrate_to("/amax", calibration());
  const Activations activations = Activations::from_amax(files_, "/amax");
  const Plan plan = quantization(RecipeMethod::kWmse);
  require_fitting_amax(plan, *activations.amax, "/amax");
  run_job(*source_, plan, activations, "/out");
  EXPECT_THAT(problems(), ::testing::IsEmpty());
  run_job(*source_, quantization(RecipeMethod::kMse), activations, "/mse");
  auto weighted = files_.contents("/out"), plain = files_.contents("/mse");
  EXPECT_EQ(weighted.at("calibration/amax.safetensors"), bytes("/amax"));
  EXPECT_NE(weighted.begin()->second, plain.begin()->second);
  {
    const ThreadLimit one(1);
    files_.remove("/out");
    run_job(*source_, plan, activations, "/out", small_buffers(4 << 20));
  }
  auto again = files_.contents("/out");
  for (auto* contents : {&weighted, &again}) contents->erase("nibblecast.json");
  EXPECT_EQ(weighted, again);
}

// Of what the rule names, and no more than it needs.
TEST_P(SecondMomentsRun, ARuleOfARecipeMayAskForIt) {
  calibrate_to("/amax", calibration());
  AmaxFile amax = read_amax(files_, "/amax");
  for (LayerAmax& layer : amax.layers)
    std::erase_if(layer.second_moments, [](const auto& tap) { return !tap.first.starts_with("attn.out"); });
  write_amax(files_, "/amax", amax);
  QuantizeOptions options;
  options.recipe = "mine.yaml";
  options.recipe_text =
      "rules:\n- {modules: ['*.attn.wo_b', '*.self_attn.o_proj'], format: nvfp4, weight_method: wmse, "
      "quantize_input: false}\n";
  options.engines = {};
  const Plan plan = plan_of(options);
  EXPECT_TRUE(plan.needs_second_moments());
  EXPECT_FALSE(plan.needs_activations());
  const Activations activations = Activations::from_amax(files_, "/amax");
  require_fitting_amax(plan, *activations.amax, "/amax");
  run_job(*source_, plan, activations, "/out");
  EXPECT_THAT(problems(), ::testing::IsEmpty());
}

// It cannot say what the weights should be without them.
TEST_P(SecondMomentsRun, VerifyNamesMomentsThatAreMissingOrOthers) {
  calibrate_to("/amax", calibration());
  const Activations activations = Activations::from_amax(files_, "/amax");
  run_job(*source_, quantization(RecipeMethod::kWmse), activations, "/out");
  AmaxFile amax = read_amax(files_, "/amax");
  for (LayerAmax& layer : amax.layers)
    for (auto& [tap, moments] : layer.second_moments)
      for (size_t i = 0; i < moments.size(); i += 3) moments[i] *= 64;
  write_amax(files_, "/out/calibration/amax.safetensors", amax);
  EXPECT_THAT(problems(), Contains(HasSubstr("are not what the recipe makes of the source")));
  for (LayerAmax& layer : amax.layers) layer.second_moments.clear();
  write_amax(files_, "/out/calibration/amax.safetensors", amax);
  EXPECT_THAT(problems(), Contains(HasSubstr("weights made by wmse cannot be made again")));
  files_.remove("/out/calibration/amax.safetensors");
  EXPECT_THAT(problems(), Contains(HasSubstr("weights made by wmse cannot be made again")));
}

TEST_P(SecondMomentsRun, AFileWithoutThemIsRefusedByName) {
  calibrate_to("/amax", calibration(false));
  const AmaxFile amax = read_amax(files_, "/amax");
  require_fitting_amax(quantization(RecipeMethod::kMse), amax, "/amax");
  expect_error(
      ErrorKind::kBadInput, [&] { require_fitting_amax(quantization(RecipeMethod::kWmse), amax, "/amax"); },
      "holds no layers.0.", ".second_moment", "calibrate SRC --calib TEXTS --second-moments");
}

TEST_P(SecondMomentsRun, MomentsOfAnotherModelAreRefused) {
  calibrate_to("/amax", calibration());
  AmaxFile amax = read_amax(files_, "/amax");
  const Plan plan = quantization(RecipeMethod::kWmse);
  const LayerAmax right = amax.layers[1];
  amax.layers[1].second_moments["attn.in"].pop_back();
  expect_error(
      ErrorKind::kBadInput, [&] { require_fitting_amax(plan, amax, "f"); }, "layers.1.attn.in.second_moment",
      "and the model has");
  amax.layers[1] = right;
  amax.layers[1].second_moments["attn.mystery"] = {1};
  expect_error(
      ErrorKind::kBadInput, [&] { require_fitting_amax(plan, amax, "f"); },
      "layers.1.attn.mystery.second_moment", "no such input");
}

TEST_P(SecondMomentsRun, MeasuringInTheSameRunIsRefusedWithAdvice) {
  const Plan plan = quantization(RecipeMethod::kWmse);
  const Activations rows = Activations::from_rows(tiny_rows(plan.model->vocabulary.size), "test");
  const Preflight found = preflight(*source_, plan, rows, {}, {}, {.memory_bytes = 8ull << 30}, false);
  EXPECT_TRUE(found.refused());
  EXPECT_THAT(found.findings,
              Contains(::testing::Field(&Finding::remedy, HasSubstr("--second-moments -o FILE"))));
}

TEST_P(SecondMomentsRun, AGpuIsRefusedByName) {
  JobMeans means{.memory_bytes = 8ull << 30};
  means.device = {.cuda = 0, .memory_bytes = 8ull << 30};
  const Plan plan = quantization(RecipeMethod::kWmse);
  Activations known;
  known.amax = testing::plain_amax(plan);
  EXPECT_THAT(preflight(*source_, plan, known, {}, {}, means, false).findings,
              Contains(::testing::Field(&Finding::reason, HasSubstr("wmse is not made on a GPU"))));
  const Plan measuring = calibration();
  const Activations rows = Activations::from_rows(tiny_rows(measuring.model->vocabulary.size), "test");
  EXPECT_THAT(preflight_calibration(*source_, measuring, rows, "/amax", {}, means).findings,
              Contains(::testing::Field(&Finding::reason, HasSubstr("not measured on a GPU"))));
}

INSTANTIATE_TEST_SUITE_P(Models, SecondMomentsRun, ::testing::ValuesIn(testing::small_models()),
                         testing::model_name);

}  // namespace
}  // namespace nibblecast
