#include "plan/input_scale_rule.h"

#include <gtest/gtest.h>

#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;

// A layer with two experts whose linears have scales of their own.
class InputScaleRules : public ::testing::Test {
 protected:
  InputScaleRules() {
    table_.experts = 2;
    table_.taps = {{.name = "experts.in", .experts = 2}, {.name = "experts.mid", .experts = 2}};
    for (int32_t expert = 0; expert < 2; ++expert) {
      for (const Role role : {Role::kGate, Role::kUp, Role::kDown}) {
        table_.modules.push_back({.id = {.layer = 0, .expert = expert, .role = role},
                                  .name = std::to_string(expert) + (role == Role::kDown ? "d" : "g"),
                                  .tap = static_cast<uint16_t>(role == Role::kDown)});
      }
    }
    for (const WeightModule& module : table_.modules)
      stored_.emplace_back(&module, module.id.expert == 0 ? 2.0f : 8.0f);
  }

  LayerInputScales::Mlp scales(const std::string& rule, size_t expert) const {
    return apply_rule(parse_input_scale_rule(rule), stored_, table_, blocks_).mlps[expert];
  }
  void expect_scales(const std::string& rule, float first, float second) const {
    SCOPED_TRACE(rule);
    EXPECT_EQ(scales(rule, 0).in, first);
    EXPECT_EQ(scales(rule, 0).mid, first);
    EXPECT_EQ(scales(rule, 1).in, second);
    EXPECT_EQ(scales(rule, 1).mid, second);
  }

  LayerTable table_;
  StoredInputScales stored_;
  TapBlocks blocks_;
};

TEST_F(InputScaleRules, MakeScalesOfWhatTheCheckpointHas) {
  expect_scales("calibrated", 8, 8);
  expect_scales("own", 2, 8);
  expect_scales("x2", 16, 16);
  expect_scales("/4", 2, 2);
  expect_scales("1.0", 1, 1);
  EXPECT_TRUE(apply_rule({}, stored_, table_, blocks_).modules.empty());
}

TEST_F(InputScaleRules, PercentilesAreOfTheSourcesBlocks) {
  expect_error(
      ErrorKind::kUnsupported, [&] { scales("p99.99", 0); }, "nothing is known of the blocks");
  std::vector<float> x(16 * 100, 1.0f);
  x[5] = 5376;
  for (const char* tap : {"experts.in", "experts.mid"}) blocks_[tap].add(x.data(), 1, x.size());
  expect_scales("p100", 2, 2);
  expect_scales("p99", 1 / 2688.0f, 1 / 2688.0f);
  blocks_["experts.in"] = {};  // nothing but zeros
  EXPECT_EQ(scales("p99", 0).in, 0.0f);
}

TEST_F(InputScaleRules, WhatRoundsNothingIsRefused) {
  stored_[0].second = stored_[3].second = 0;
  stored_[1].second = stored_[4].second = 0;
  expect_error(
      ErrorKind::kBadInput, [&] { scales("calibrated", 0); }, "0g.input_scale");
}

TEST(InputScaleRule, OtherTextsAreRefused) {
  for (const char* text :
       {"", "p", "p0", "p101", "x", "x0", "x-1", "/", "/0", "0", "-1", "1.0x", "nan", "inf", "max"})
    expect_error(
        ErrorKind::kUsage, [&] { parse_input_scale_rule(text); }, "is no rule for input scales");
  EXPECT_DOUBLE_EQ(parse_input_scale_rule("p99.99").share, 0.9999);
  EXPECT_EQ(parse_input_scale_rule("/8").factor, 0.125f);
  EXPECT_EQ(parse_input_scale_rule("/8").name, "/8");
}

}  // namespace
}  // namespace nibblecast
