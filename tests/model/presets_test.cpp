#include "model/presets.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "model/families/deepseek_v4/config.h"
#include "model/family.h"
#include "testing.h"

namespace nibblecast {
namespace {

size_t count(const std::vector<uint32_t>& ratios, uint32_t ratio) {
  return static_cast<size_t>(std::count(ratios.begin(), ratios.end(), ratio));
}

TEST(Presets, AllParse) {
  for (const std::string_view name : preset_names()) {
    const Model model = read_model(preset_config(name), std::string(name));
    EXPECT_GT(model.layers(), 0u) << name;
  }
}

TEST(Presets, LayerKindsAreThoseOfTheReleases) {
  const auto pro = DeepseekV4Config::parse(preset_config("v4-pro"), "");
  EXPECT_EQ(count(pro.compress_ratios, 0), 0u);
  EXPECT_EQ(count(pro.compress_ratios, 4), 30u);
  EXPECT_EQ(count(pro.compress_ratios, 128), 31u);
  const auto flash = DeepseekV4Config::parse(preset_config("v4-flash"), "");
  EXPECT_EQ(count(flash.compress_ratios, 0), 2u);
  EXPECT_EQ(count(flash.compress_ratios, 4), 21u);
  EXPECT_EQ(count(flash.compress_ratios, 128), 20u);
}

TEST(Presets, TinyHasLayersOfEveryKind) {
  const auto tiny = DeepseekV4Config::parse(preset_config("v4-tiny"), "");
  EXPECT_GE(count(tiny.compress_ratios, 0), 1u);
  EXPECT_GE(count(tiny.compress_ratios, 4), 1u);
  EXPECT_GE(count(tiny.compress_ratios, 128), 1u);
  EXPECT_GE(tiny.num_hash_layers, 1u);
  EXPECT_LT(tiny.num_hash_layers, tiny.num_hidden_layers);
}

TEST(Presets, AnotherNameIsAUsageError) {
  testing::expect_error(
      ErrorKind::kUsage, [] { preset_config("v5"); }, "v4-pro, v4-flash, v4-tiny", "qwen3-", "'v5'");
}

}  // namespace
}  // namespace nibblecast
