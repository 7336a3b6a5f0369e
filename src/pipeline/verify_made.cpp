// MadeChecker of pipeline/verify_linears.h.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/parallel.h"
#include "pipeline/group_maker.h"
#include "pipeline/group_parts.h"
#include "pipeline/stack_bytes.h"
#include "pipeline/verify_linears.h"
#include "plan/amax_fit.h"
#include "plan/linear.h"

namespace nibblecast {
namespace {

struct Wrong {
  uint64_t values = 0, blocks = 0;  // blocks of 32
};

Wrong count_wrong(const StoredLinear& source, const StoredLinear& output) {
  const size_t rows = rows_of(source), cols = cols_of(source);
  std::vector<Wrong> wrong((rows + kCheckedRows - 1) / kCheckedRows);
  parallel_for(wrong.size(), [&](size_t task) {
    const size_t row = task * kCheckedRows, count = std::min<size_t>(kCheckedRows, rows - row);
    std::vector<float> expected(count * cols), found(count * cols);
    dequantize_rows_ref(source, row, count, expected.data(), cols);
    dequantize_rows_ref(output, row, count, found.data(), cols);
    for (size_t block = 0; block < expected.size(); block += 32) {
      uint64_t values = 0;
      for (size_t at = block; at < block + 32; ++at) values += !(expected[at] == found[at]);
      wrong[task].values += values;
      wrong[task].blocks += values > 0;
    }
  });
  Wrong sum;
  for (const Wrong& part : wrong) sum.values += part.values, sum.blocks += part.blocks;
  return sum;
}

// By rows, as it was made.
void turn_back(const Plan& plan, const PlannedLinear& linear, LinearPair& pair) {
  const auto turn = [&](uint32_t tensor, std::vector<std::byte>& held, std::span<const std::byte>& bytes) {
    if (tensor == kNone) return;
    held.assign(bytes.begin(), bytes.end());
    from_output(plan, linear, tensor, held);
    bytes = held;
  };
  turn(linear.weight, pair.turned[0], pair.weight);
  turn(linear.block_scale, pair.turned[1], pair.block_scale);
  pair.source = by_rows(linear, pair.source, pair.turned[2]);
}

}  // namespace

std::vector<LinearPair> linears_of(const DataCheck& check, const Step& step, const Reader::Loaded& loaded) {
  size_t place = 0;
  std::vector<std::span<const std::byte>> parts;
  for (const FileRange& range : group_ranges(check.source, *step.group, step.first_row, step.rows))
    parts.push_back(at_place(step, loaded, place++, range.size_bytes));
  std::vector<LinearPair> linears;
  for (StoredLinear& view :
       group_views(check.source, *step.group, step.rows, [&](size_t part) { return parts[part]; }))
    linears.push_back({.source = view, .weight = {}, .block_scale = {}});
  for (size_t index = 0; index < linears.size(); ++index) {
    if (!step.comparable[index]) continue;
    const PlannedLinear& linear = step.group->linears[index];
    const auto next = [&](uint32_t tensor) {
      return at_place(step, loaded, place++, output_part(check.plan, step, tensor).size_bytes);
    };
    linears[index].weight = next(linear.weight);
    if (linear.block_scale != kNone) linears[index].block_scale = next(linear.block_scale);
    if (linear.stack != 0) turn_back(check.plan, linear, linears[index]);
  }
  return linears;
}

struct MadeChecker::Made {
  std::vector<std::vector<std::byte>> weights, scales;
  std::vector<MadeLinear> linears;
};

MadeChecker::Made MadeChecker::make(const Step& step, const std::vector<LinearPair>& linears) {
  Made made{.weights = std::vector<std::vector<std::byte>>(linears.size()),
            .scales = std::vector<std::vector<std::byte>>(linears.size()),
            .linears = {}};
  std::vector<LinearTask> tasks;
  for (size_t index = 0; index < linears.size(); ++index) {
    const PlannedLinear& linear = step.group->linears[index];
    made.weights[index].resize(output_part(check_.plan, step, linear.weight).size_bytes);
    if (linear.block_scale != kNone)
      made.scales[index].resize(check_.plan.tensors[linear.block_scale].out.size_bytes);
    tasks.push_back({.linear = &linear,
                     .source = linears[index].source,
                     .first_row = step.first_row,
                     .weight = made.weights[index],
                     .block_scale = made.scales[index]});
    if (needs_second_moments(check_.plan, linear))
      tasks.back().channel_weights = channel_weights_->of(linear, step.group->expert);
  }
  made.linears = make_group(check_.source, check_.plan, tasks, Kernels::kReference);
  return made;
}

MadeChecker::MadeChecker(const DataCheck& check, ProblemList& problems, VerifyReport& report)
    : check_(check), problems_(problems), report_(report) {
  if (!check.plan.needs_second_moments()) return;
  const std::filesystem::path path = check.output.path / "calibration" / "amax.safetensors";
  try {
    amax_ = read_amax(check.files, path);
    require_fitting_amax(check.plan, *amax_, path.string());
    channel_weights_.emplace(check.plan, amax_->layers, path.string());
  } catch (const Error& error) {
    problems_.add("second moments",
                  fmt::format("weights made by wmse cannot be made again without their second moments: {}",
                              error.what()));
  }
}

// Whether all that the group's weights are made of is known.
bool MadeChecker::can_make(const PlannedGroup& group) const {
  return channel_weights_ || std::ranges::none_of(group.linears, [&](const PlannedLinear& linear) {
           return needs_second_moments(check_.plan, linear);
         });
}

void MadeChecker::compare(const Step& step, const std::vector<LinearPair>& linears) {
  if (!can_make(*step.group)) return;
  try {
    const Made made = make(step, linears);
    for (size_t index = 0; index < linears.size(); ++index) {
      const Make how = check_.plan.tensors[step.group->linears[index].weight].make;
      if (!step.comparable[index] || how == Make::kCastWeight || how == Make::kKeep) continue;
      compare_linear(step, linears[index], made, index);
    }
  } catch (const Error& error) {
    problems_.add("source", error.what());
  }
}

void MadeChecker::compare_linear(const Step& step, const LinearPair& pair, const Made& made, size_t index) {
  const PlannedLinear& linear = step.group->linears[index];
  const MadeLinear& right = made.linears[index];
  const uint64_t begin =
      output_part(check_.plan, step, linear.weight).begin - check_.plan.tensors[linear.weight].out.offset;
  compare_tensor(linear.weight, begin, pair.weight, made.weights[index]);
  if (linear.block_scale != kNone)
    compare_tensor(linear.block_scale, 0, pair.block_scale, made.scales[index]);
  if (check_.plan.tensors[linear.weight].make == Make::kMxfp4Weight || right.counts.blocks.blocks > 0)
    compare_values(linear, pair, right.counts.blocks);
  if (linear.weight_scale == kNone) return;
  const float found = check_.scales[linear.weight_scale],
              stored = check_.plan.tensors[linear.weight_scale].stored(right.weight_scale);
  if (found == stored) return;
  problems_.add("weight scales",
                fmt::format("{}: must be {}; found {}", name(linear.weight_scale), stored, found));
}

// `found` begins at byte `begin` of the tensor.
void MadeChecker::compare_tensor(uint32_t planned, uint64_t begin, std::span<const std::byte> found,
                                 std::span<const std::byte> expected) {
  report_.made_bytes += found.size();
  wrong_.add(planned, begin, compare_bytes(expected, found));
}

// A weight with another's codes and exponents: by the formats' definitions both must have the same values.
// `blocks`: of one that was cast to NVFP4; those outside the window lose theirs.
void MadeChecker::compare_values(const PlannedLinear& linear, const LinearPair& pair,
                                 const CastCounts& blocks) {
  const Wrong wrong = count_wrong(pair.source, output_of(linear, pair));
  report_.blocks += blocks.blocks;
  report_.requantized_blocks += blocks.outside_window;
  if (blocks.blocks > 0) report_.identical_blocks += blocks.blocks - wrong.blocks;
  if (wrong.values == 0 || blocks.outside_window > 0) return;
  problems_.add("made tensors", fmt::format("{}: {} of {} values are not the source's", name(linear.weight),
                                            wrong.values, rows_of(pair.source) * cols_of(pair.source)));
}

// As it was found: MXFP4, or NVFP4.
StoredLinear MadeChecker::output_of(const PlannedLinear& linear, const LinearPair& pair) const {
  const size_t rows = rows_of(pair.source), cols = cols_of(pair.source);
  const uint8_t *codes = codes_at(pair.weight), *scales = codes_at(pair.block_scale);
  if (linear.weight_scale == kNone) return Mxfp4View{codes, scales, rows, cols};
  const float scale_2 = check_.plan.tensors[linear.weight_scale].stored(check_.scales[linear.weight_scale]);
  return Nvfp4View{codes, scales, scale_2, rows, cols};
}

void MadeChecker::report() {
  for (const auto& [planned, difference] : wrong_.by_tensor()) {
    problems_.add("made tensors",
                  fmt::format("{}: {} of {} bytes are not what {} makes of the source, the first at byte "
                              "{} of the tensor",
                              name(planned), difference.bytes, check_.plan.tensors[planned].out.size_bytes,
                              check_.plan.command == "quantize" ? "the recipe" : check_.plan.command,
                              difference.first));
  }
}

}  // namespace nibblecast
