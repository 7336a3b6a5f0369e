#include "plan/amax_fit.h"

#include <gmock/gmock.h>

#include <functional>
#include <limits>

#include "model/families/deepseek_v4/family.h"
#include "plan_testing.h"
#include "testing.h"

namespace nibblecast {
namespace {

using ::testing::Contains;
using testing::expect_error;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr const char* kIn = v4_tap::kExpertsIn;
constexpr const char* kMid = v4_tap::kExpertsMid;
const std::string kWeighted = weighted_tap(kMid);

// Two layers with four experts, norms of 1.
class AmaxFit : public ::testing::Test {
 protected:
  AmaxFit() {
    testing::write_source(folder_.path(), {});
    source_.emplace(Checkpoint::open(folder_.path(), system_files()));
    plan_ = make_plan(*source_, {});
    amax_.metadata = {{"model", source_identity(*source_)}, {"weights", plan_.weights}};
    for (uint64_t layer = 0; layer < 2; ++layer) {
      amax_.layers.push_back({.layer = layer,
                              .taps = {{kIn, {2, 2, 2, 2}}, {kMid, {1, 1, 1, 1}}, {kWeighted, {1, 1, 1, 1}}},
                              .tokens = {9, 9, 9, 9}});
    }
  }

  void fit() const { require_fitting_amax(plan_, amax_, "f"); }
  // After `edit` it does not fit, by an error that holds `part`.
  void expect_misfit(const std::function<void(std::vector<LayerAmax>&)>& edit, const std::string& part) {
    const std::vector<LayerAmax> right = amax_.layers;
    edit(amax_.layers);
    SCOPED_TRACE(part);
    expect_error(
        ErrorKind::kBadInput, [&] { fit(); }, part);
    amax_.layers = right;
  }
  std::vector<std::string> warnings() const { return amax_warnings(*source_, plan_, amax_, "f"); }
  void plan_by(const std::string& rules) {
    plan_ = make_plan(*source_, {.recipe = "mine.yaml", .recipe_text = "rules:\n" + rules});
  }

  testing::TemporaryFolder folder_;
  std::optional<Checkpoint> source_;
  Plan plan_;
  AmaxFile amax_;
};

TEST_F(AmaxFit, AcceptsTheModelsOwn) {
  fit();
  EXPECT_THAT(warnings(), IsEmpty());
}

TEST_F(AmaxFit, WhatIsMissingIsNamedBeforeAnyWork) {
  expect_misfit([](auto& layers) { layers.pop_back(); }, "f: holds no amax of layer 1 (");
  expect_misfit([](auto& layers) { layers.clear(); }, "holds no amax of layer 0, layer 1 (");
  expect_misfit([](auto& layers) { layers[1].taps.erase(kIn); }, "holds no amax of layers.1.experts.in.amax");
  expect_misfit([](auto& layers) { layers[0].taps.erase(kWeighted); },
                "holds no amax of layers.0.experts.mid_weighted.amax");
  plan_by("- {modules: '*.attn.wq_*', format: nvfp4}");
  expect_misfit([](auto&) {},
                "holds no amax of layers.0.attn.in.amax, layers.0.attn.q_rank.amax, layers.1.attn.in.amax");
}

TEST_F(AmaxFit, WhatNoFileOfThisModelHasIsRefused) {
  expect_misfit([](auto& layers) { layers.push_back(layers[1]), layers.back().layer = 2; },
                "the model has no such layer");
  for (const std::string& entry : {std::string(kIn), std::string(kMid), kWeighted}) {
    expect_misfit(
        [&](auto& layers) { layers[1].taps[entry] = {1}; },
        "layers.1." + entry + ".amax': the model has another number of experts (expected 4, found 1)");
  }
  expect_misfit([](auto& layers) { layers[1].tokens = {1}; },
                "layers.1.experts.tokens': the model has another number of experts (expected 4, found 1)");
  expect_misfit(
      [](auto& layers) {
        layers[1].taps["attn.in"] = {1, 2};
      },
      "layers.1.attn.in.amax': the model has another number of experts (expected 1, found 2)");
  for (const char* entry : {"attn.mystery", "attn.in_weighted"}) {
    expect_misfit([&](auto& layers) { layers[0].taps[entry] = {1}; },
                  std::string("layers.0.") + entry + ".amax': the model has no such input");
  }
  expect_misfit([](auto& layers) { layers[1].taps[kIn][2] = 1e30f; }, "expert 2 is impossible");
  expect_misfit([](auto& layers) { layers[1].taps[kMid][2] = -1; }, "expert 2 is impossible");
  expect_misfit([](auto& layers) { layers[1].taps[kMid][0] = std::numeric_limits<float>::quiet_NaN(); },
                "expert 0 is impossible");
  expect_misfit([](auto& layers) { layers[0].taps[kIn].assign(4, 0); }, "every amax of this layer is 0");
}

TEST_F(AmaxFit, OnlyWhatTheRecipeNeedsMustBeThere) {
  plan_by("- {modules: 'layers.1.ffn.experts.*', format: nvfp4}");
  amax_.layers.erase(amax_.layers.begin());
  fit();
  plan_by("- {modules: '*.ffn.experts.*', format: nvfp4, quantize_input: false}");
  amax_.layers.clear();
  fit();
}

TEST_F(AmaxFit, AnotherModelIsNamedAndSoIsAFineTune) {
  amax_.metadata["model"] = "0123";
  EXPECT_THAT(warnings(), Contains(HasSubstr("measured on another model, 0123; " + folder_.path().string() +
                                             " is " + source_identity(*source_))));
  amax_.metadata["model"] = source_identity(*source_);
  amax_.metadata["weights"] = "4567";
  EXPECT_THAT(warnings(), Contains(HasSubstr("on other weights with the same headers, 4567")));
  amax_.metadata.erase("weights");
  EXPECT_THAT(warnings(), Contains(HasSubstr("of an older version")));
  amax_.metadata.clear();
  EXPECT_THAT(warnings(), Contains(HasSubstr("f names no model")));
}

TEST_F(AmaxFit, AnAmaxBelowTheNormsWeightsIsAWarning) {
  amax_.layers[1].taps[kIn][3] = 1e-4f;
  EXPECT_THAT(warnings(),
              ::testing::ElementsAre(
                  HasSubstr("f: layers.1.experts.in.amax: 0.0001 in expert 3, as 1 of 4 values; the weights "
                            "of layers.1.ffn_norm.weight give at least 0.99")));
}

TEST_F(AmaxFit, TokensDecideWhoSawNone) {
  amax_.layers[0].tokens[1] = 0;
  amax_.layers[1].taps[kIn][2] = 0;
  EXPECT_EQ(experts_without_tokens(amax_.layers[0]), std::vector<uint64_t>{1});
  EXPECT_THAT(experts_without_tokens(amax_.layers[1]), IsEmpty());
  EXPECT_THAT(warnings(), Contains(HasSubstr("f: 1 expert saw no token")));
  EXPECT_THAT(warnings(), Contains(HasSubstr("f: 2 experts with an amax that its count of tokens contradicts "
                                             "(layers 0, 1)")));
}

}  // namespace
}  // namespace nibblecast
