#include "pipeline/verify_scales.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <memory>

#include "base/error.h"
#include "calibration/amax_file.h"
#include "plan/amax_fit.h"
#include "plan/input_scale.h"

namespace nibblecast {
namespace {

bool same_bits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

class ScaleCheck {
 public:
  ScaleCheck(const Checkpoint& source, const OutputFolder& output, const Matches& matches, const Plan& plan,
             ProblemList& problems)
      : source_(source), output_(output), matches_(matches), plan_(plan), problems_(problems) {}

  std::vector<float> read(FileSystem& files) {
    values_.assign(plan_.tensors.size(), std::numeric_limits<float>::quiet_NaN());
    std::vector<std::unique_ptr<File>> open;
    for (const std::string& shard : output_.shards)
      open.push_back(files.open(output_.path / shard, Access::kRead));
    for (size_t index = 0; index < values_.size(); ++index) {
      const Make make = plan_.tensors[index].make;
      const Tensor* tensor = matches_[index];
      if (tensor == nullptr || !is_scalar(make)) continue;
      open[tensor->shard]->read(tensor->offset, std::as_writable_bytes(std::span(&values_[index], 1)));
      if (values_[index] > 0 && std::isfinite(values_[index])) continue;
      problems_.add("scales",
                    fmt::format("{}: must be positive and finite; found {}", name(index), values_[index]));
    }
    return values_;
  }

  void check_shared() {
    for_each_group([&](const PlannedGroup& group) {
      for (const PlannedLinear& linear : group.linears) {
        check_equal(first_of_share(group, linear, &PlannedLinear::weight_scale), linear.weight_scale);
        check_equal(first_of_share(group, linear, &PlannedLinear::input_scale), linear.input_scale);
      }
    });
  }

  // Without the measured amax: all experts of a layer and projection agree.
  void check_layer_policy() {
    for (const Stage& stage : plan_.stages) {
      if (!stage.layer) continue;
      for (const Tap& tap : plan_.model->table.layers[*stage.layer].taps)
        if (tap.experts > 0) check_one_value(stage, tap);
    }
  }

  void check_constant() {
    for (uint32_t index = 0; index < plan_.tensors.size(); ++index) {
      if (plan_.tensors[index].make == Make::kInputScale)
        check_value(index, plan_.options.constant_input_scale);
    }
  }

  // Throws Error: the file does not hold what the policy needs.
  void check_against_amax(FileSystem& files, const std::filesystem::path& path,
                          std::vector<std::string>& notes) {
    const AmaxFile amax = read_amax(files, path);
    if (auto foreign = foreign_amax(source_, plan_, amax, path.string()))
      notes.push_back(std::move(*foreign));
    require_fitting_amax(plan_, amax, path.string());
    for (const Stage& stage : plan_.stages) {
      if (!stage.layer) continue;
      if (const LayerAmax* layer = find_layer(amax.layers, *stage.layer))
        for_each_scale(plan_, stage, *layer, path.string(),
                       [&](uint32_t tensor, float value) { check_value(tensor, value); });
    }
  }

 private:
  template <class F>
  void for_each_group(const F& f) {
    for (const Stage& stage : plan_.stages) std::ranges::for_each(stage.groups, f);
  }

  // The first linear with the same share that has this scale.
  static uint32_t first_of_share(const PlannedGroup& group, const PlannedLinear& linear,
                                 uint32_t PlannedLinear::*scale) {
    const auto first = std::ranges::find_if(group.linears, [&](const PlannedLinear& other) {
      return other.share == linear.share && other.*scale != kNone;
    });
    return first == group.linears.end() ? kNone : (*first).*scale;
  }

  const std::string& name(size_t index) const { return plan_.tensors[index].out.name; }

  void check_equal(uint32_t gate, uint32_t up) {
    if (gate == up || gate == kNone || up == kNone) return;
    if (matches_[gate] == nullptr || matches_[up] == nullptr || same_bits(values_[gate], values_[up])) return;
    problems_.add("shared scales", fmt::format("{}: is {}, but {} is {}; engines use one for both",
                                               name(gate), values_[gate], name(up), values_[up]));
  }

  void check_one_value(const Stage& stage, const Tap& tap) {
    std::vector<uint32_t> scales;
    std::map<uint32_t, uint64_t> counts;  // by bits
    for (const PlannedGroup& group : stage.groups) {
      for (const PlannedLinear& linear : group.linears) {
        if (linear.input_scale == kNone || matches_[linear.input_scale] == nullptr) continue;
        if (&tap_of(plan_, linear) != &tap) continue;
        scales.push_back(linear.input_scale);
        ++counts[std::bit_cast<uint32_t>(values_[linear.input_scale])];
      }
    }
    if (counts.size() < 2) return;
    const auto most = std::ranges::max_element(counts, {}, [](const auto& count) { return count.second; });
    for (const uint32_t scale : scales) check_stored(scale, std::bit_cast<float>(most->first));
  }

  void check_value(uint32_t index, float value) { check_stored(index, plan_.tensors[index].stored(value)); }

  void check_stored(uint32_t index, float stored) {
    if (matches_[index] == nullptr || same_bits(values_[index], stored)) return;
    problems_.add("input scales", fmt::format("{}: must be {} by policy `{}`; found {}", name(index), stored,
                                              input_scale_text(plan_.options), values_[index]));
  }

  const Checkpoint& source_;
  const OutputFolder& output_;
  const Matches& matches_;
  const Plan& plan_;
  ProblemList& problems_;
  std::vector<float> values_;
};

}  // namespace

std::vector<float> check_scales(const Checkpoint& source, const OutputFolder& output, const Matches& matches,
                                const Plan& plan, const RecordedOptions& recorded, FileSystem& files,
                                ProblemList& problems, std::vector<std::string>& notes) {
  ScaleCheck check(source, output, matches, plan, problems);
  std::vector<float> values = check.read(files);
  check.check_shared();
  if (plan.options.input_scale == InputScalePolicy::kConstant) check.check_constant();
  if (!plan.needs_activations()) return values;
  const std::filesystem::path amax = output.path / "calibration" / "amax.safetensors";
  if (recorded.input_scale && files.status(amax)) {
    try {
      check.check_against_amax(files, amax, notes);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kBadInput && error.kind() != ErrorKind::kUnsupported) throw;
      problems.add("input scales", error.what());
    }
    return values;
  }
  if (recorded.input_scale == InputScalePolicy::kLayer) check.check_layer_policy();
  notes.push_back(
      recorded.input_scale
          ? "no calibration/amax.safetensors: input_scale was not held against measured activations"
          : "no nibblecast.json: any input_scale and either sign of zero is accepted");
  return values;
}

}  // namespace nibblecast
