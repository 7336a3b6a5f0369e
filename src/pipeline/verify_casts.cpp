// CastChecker of pipeline/verify_linears.h.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/parallel.h"
#include "pipeline/verify_linears.h"

namespace nibblecast {
namespace {

// Largest E8M0 byte but NaN, as k; written out, since scan_scales() is what the writer used.
int plain_k_max(const std::vector<std::span<const std::byte>>& scales) {
  uint8_t largest = 0;
  for (const auto& part : scales) {
    for (const std::byte scale : part) {
      if (scale != std::byte{255}) largest = std::max(largest, static_cast<uint8_t>(scale));
    }
  }
  return largest == 0 ? 0 : int{largest} - 127;
}

// Of the linears that share a scale_2 with `share`.
int plain_k_max_of(const std::vector<PlannedLinear>& linears, const std::vector<LinearPair>& pairs,
                   uint8_t share) {
  std::vector<std::span<const std::byte>> scales;
  for (size_t index = 0; index < linears.size(); ++index) {
    const auto* view = std::get_if<Mxfp4View>(&pairs[index].source);
    if (linears[index].share != share || view == nullptr) continue;
    scales.push_back(std::as_bytes(std::span(view->scales, view->rows * view->cols / 32)));
  }
  return plain_k_max(scales);
}

BlockCounts count_blocks(const CastPair& pair) {
  const BlockChecker checker(pair);
  const uint64_t rows = pair.source.rows;
  std::vector<BlockCounts> counts((rows + kCheckedRows - 1) / kCheckedRows);
  parallel_for(counts.size(), [&](size_t task) {
    const uint64_t row = task * kCheckedRows;
    counts[task] = checker.check(row, std::min(kCheckedRows, rows - row));
  });
  BlockCounts sum;
  for (const BlockCounts& part : counts) sum.merge(part);
  return sum;
}

}  // namespace

void CastChecker::compare(const Step& step, const std::vector<LinearPair>& pairs) {
  const std::vector<PlannedLinear>& linears = step.group->linears;
  for (size_t index = 0; index < linears.size(); ++index) {
    if (!step.comparable[index] || check_.plan.tensors[linears[index].weight].make != Make::kCastWeight)
      continue;
    const CastPair pair = {.source = std::get<Mxfp4View>(pairs[index].source),
                           .codes = codes_at(pairs[index].weight),
                           .block_scales = codes_at(pairs[index].block_scale),
                           .scale_2 = check_.plan.tensors[linears[index].weight_scale].stored(
                               check_.scales[linears[index].weight_scale]),
                           .k_max = plain_k_max_of(linears, pairs, linears[index].share),
                           .negative_zero = check_.negative_zero};
    check_scale_2(linears[index], pair);
    report(linears[index], count_blocks(pair));
  }
}

void CastChecker::check_scale_2(const PlannedLinear& linear, const CastPair& pair) {
  const float right = std::ldexp(1.0f, pair.k_max - 8);
  if (pair.scale_2 == right) return;
  problems_.add("weight_scale_2", fmt::format("{}: must be {} by the source's scales; found {}",
                                              name(linear.weight_scale), right, pair.scale_2));
}

void CastChecker::report(const PlannedLinear& linear, const BlockCounts& counts) {
  report_.blocks += counts.blocks;
  report_.identical_blocks += counts.identical;
  report_.requantized_blocks += counts.requantized;
  const auto add = [&](BlockFault fault, std::string_view kind, const std::string& tensor,
                       std::string_view problem) {
    const FaultCount& count = counts[fault];
    if (count.blocks == 0) return;
    problems_.add(
        kind,
        fmt::format("{}: in {} of {} blocks {}; first at row {}, column {}: expected {}, found {}", tensor,
                    count.blocks, counts.blocks, problem, count.row, count.col, count.expected, count.found));
  };
  const std::string &weight = name(linear.weight), &scale = name(linear.block_scale);
  add(BlockFault::kSourceScaleNan, "source scales", check_.source.tensors()[linear.source.scale.tensor].name,
      "the source's scale is NaN");
  add(BlockFault::kScaleNan, "block scales", scale, "the scale is NaN");
  add(BlockFault::kScaleNegative, "block scales", scale, "the scale is negative");
  add(BlockFault::kScale, "block scales", scale, "the scale is not what the cast makes of the source's");
  add(BlockFault::kValue, "expert weights", weight, "a value is not the source's");
  add(BlockFault::kZeroSign, "expert weights", weight, "a zero has the wrong sign");
  add(BlockFault::kRequantized, "expert weights", weight,
      "a requantized value is not what the rule makes of the source's");
  note_requantized(weight, counts);
  if (check_.negative_zero) return;
  if (counts.signs_kept > 0) kept_signs_.push_back(linear.weight);
  if (counts.signs_cleared > 0) cleared_signs_.push_back(linear.weight);
}

void CastChecker::note_requantized(const std::string& weight, const BlockCounts& counts) {
  if (counts.requantized == 0) return;
  const double relative =
      counts.value_squared > 0 ? std::sqrt(counts.error_squared / counts.value_squared) : 0;
  const bool all_zeroed = counts.zeroed == counts.requantized;
  std::string error;
  if (counts.zeroed > 0)
    error = all_zeroed ? "; all of their values became 0" : fmt::format("; {} became all 0", counts.zeroed);
  if (!all_zeroed) error += fmt::format("; error {:.3g} relative to the norm of these blocks", relative);
  report_.notes.push_back(fmt::format(
      "{}: {} of {} blocks lie outside the cast's window and were requantized{}, at most {:.3g} off", weight,
      counts.requantized, counts.blocks, error, counts.largest_error));
}

void CastChecker::report_mixed_signs() {
  if (kept_signs_.empty() || cleared_signs_.empty()) return;
  const bool kept_is_odd = kept_signs_.size() < cleared_signs_.size();
  for (const uint32_t planned : kept_is_odd ? kept_signs_ : cleared_signs_) {
    problems_.add("expert weights",
                  fmt::format("{}: {} the sign of zeros that other weights {}", name(planned),
                              kept_is_odd ? "keeps" : "loses", kept_is_odd ? "lose" : "keep"));
  }
}

}  // namespace nibblecast
