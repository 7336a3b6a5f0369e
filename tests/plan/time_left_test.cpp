#include "plan/time_left.h"

#include <gtest/gtest.h>

#include "model/family.h"
#include "model/presets.h"

namespace nibblecast {
namespace {

constexpr size_t kStreaming = 0, kAttention = 1, kExperts = 2;

TEST(TimeLeft, SaysNothingAtFirst) {
  WorkLog log;
  log.left[kStreaming].read_bytes = 1e9;
  EXPECT_FALSE(seconds_left(log, {}));
  log.seconds[kStreaming] = 0.4;
  EXPECT_FALSE(seconds_left(log, {}));
}

// 1 GB of 10 was read in 50 s, whatever the probe said.
TEST(TimeLeft, GoesOnAsItWent) {
  WorkLog log;
  log.done[kStreaming] = {.read_bytes = 1e9, .written_bytes = 1e9};
  log.left[kStreaming] = {.read_bytes = 9e9, .written_bytes = 9e9};
  log.seconds[kStreaming] = 50;
  const ProbedRates fast{.disk = DiskRates{5e9, 5e9}, .compute = {}};
  EXPECT_NEAR(*seconds_left(log, fast), 450, 10);
}

// What is read ahead of a slow writer says nothing of the end.
TEST(TimeLeft, TheResourceThatIsFurthestBehindDecides) {
  WorkLog log;
  log.done[kStreaming] = {.read_bytes = 2e9, .written_bytes = 1e9};
  log.left[kStreaming] = {.read_bytes = 8e9, .written_bytes = 9e9};
  log.seconds[kStreaming] = 100;
  EXPECT_NEAR(*seconds_left(log, {}), 900, 20);
}

TEST(TimeLeft, KindsHaveRatesOfTheirOwn) {
  WorkLog log;
  log.done[kAttention].flops = 1e12, log.left[kAttention].flops = 3e12, log.seconds[kAttention] = 10;
  log.done[kExperts] = {.read_bytes = 1e9, .flops = 1e12};
  log.left[kExperts] = {.read_bytes = 3e9, .flops = 3e12};
  log.seconds[kExperts] = 100;
  EXPECT_NEAR(*seconds_left(log, {}), 330, 7);
}

// Experts that have not begun: as fast as attention computes, or as bytes come.
TEST(TimeLeft, WhatHasNotBegunGoesByTheOthersRates) {
  WorkLog log;
  log.done[kStreaming].read_bytes = 1e9, log.seconds[kStreaming] = 10;
  log.done[kAttention].flops = 1e12, log.seconds[kAttention] = 10;
  log.left[kExperts] = {.read_bytes = 1e9, .flops = 5e12};
  EXPECT_NEAR(*seconds_left(log, {}), 50, 1);
  log.left[kExperts] = {.read_bytes = 9e9, .flops = 5e12};
  EXPECT_NEAR(*seconds_left(log, {}), 90, 1);
}

TEST(TimeLeft, UnknownArithmeticIsNotTakenForNone) {
  WorkLog log;
  log.done[kStreaming].read_bytes = 1e9, log.seconds[kStreaming] = 1;
  log.left[kAttention].flops = 1e15;
  EXPECT_FALSE(seconds_left(log, {}));
  const ProbedRates probed{.disk = {}, .compute = {.flops_per_second = 1e12}};
  EXPECT_NEAR(*seconds_left(log, probed), 1000, 1);
}

TEST(Flops, ScoresGrowUntilTheWindowAndTheIndexerBoundThem) {
  const Model model = read_model(preset_config("v4-pro"), "v4-pro");
  const auto& config = std::get<DeepseekV4Config>(model.spec);
  size_t csa = 0;
  while (config.compress_ratios[csa] != 4) ++csa;
  EXPECT_LT(score_flops(model, csa, 64), score_flops(model, csa, 512));
  const double indexed = 2 * static_cast<double>(config.index_n_heads * config.index_head_dim);
  const uint64_t long_row = uint64_t{1} << 20;
  EXPECT_NEAR(score_flops(model, csa, 2 * long_row) - score_flops(model, csa, long_row),
              indexed * static_cast<double>(long_row) / 8, 1e6);
  const LayerFlops flops = layer_flops(model, csa);
  EXPECT_GT(flops.attention, 0);
  EXPECT_NEAR(flops.routed / flops.shared, static_cast<double>(config.num_experts_per_tok), 1e-9);
}

}  // namespace
}  // namespace nibblecast
