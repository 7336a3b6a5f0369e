#include "cli/require.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "base/error.h"
#include "cli/console.h"
#include "cli/text.h"
#include "plan/amax_fit.h"

namespace nibblecast {
namespace {

constexpr std::array<std::pair<std::string_view, Condition>, 6> kConditionNames = {{
    {"lossless", Condition::kLossless},
    {"window", Condition::kWindow},
    {"covered", Condition::kCovered},
    {"bounded", Condition::kBounded},
    {"rows", Condition::kRows},
    {"model", Condition::kModel},
}};

constexpr uint64_t kMostRecordBytes = 1 << 30;
constexpr size_t kStarvedRanges = 6;

Condition parse_condition(const std::string& text, const Conditions& allowed) {
  std::string names;
  for (const auto& [name, condition] : kConditionNames) {
    if (!allowed.contains(condition)) continue;
    if (name == text) return condition;
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  throw CLI::ValidationError("--require", fmt::format("unknown condition '{}' (expected {})", text, names));
}

std::string unmet_line(Condition condition, const std::string& problem) {
  const auto found =
      std::ranges::find(kConditionNames, condition, &std::pair<std::string_view, Condition>::second);
  return fmt::format("'{}' does not hold: {}", found->first, problem);
}

// "NAME", or "NAME and 3 others", of the first.
template <class Map>
std::string first_of(const Map& by_name) {
  const std::string& first = by_name.begin()->first;
  return by_name.size() == 1 ? first : fmt::format("{} and {} more", first, by_name.size() - 1);
}

std::string window_problem(const RunRecord& record) {
  return fmt::format(
      "{} of {} blocks lie outside the cast's window and were requantized, in {}",
      grouped(record.blocks.outside_window), grouped(record.blocks.blocks),
      record.outside_window.empty() ? "tensors without a name" : first_of(record.outside_window));
}

// Weights that are made by a method that changes values. Of those that are cast if the data allow it, which
// are not in `record` before they are made.
std::vector<std::string> quantized_anew(const Plan& plan, const RunRecord& record) {
  const std::vector<uint32_t> list = plan.tried_casts();
  const std::set<uint32_t> tried(list.begin(), list.end());
  std::vector<std::string> names;
  for (uint32_t index = 0; index < plan.tensors.size(); ++index) {
    const PlannedTensor& tensor = plan.tensors[index];
    const bool is_made = tensor.make == Make::kNvfp4Weight || tensor.make == Make::kFp8Weight ||
                         tensor.make == Make::kFp8BlockWeight;
    if (is_made && (!tried.contains(index) || record.losses.contains(tensor.out.name)))
      names.push_back(tensor.out.name);
  }
  return names;
}

// Empty where it holds.
std::string lossy_weights(const Plan& plan, const RunRecord& record) {
  const std::vector<std::string> names = quantized_anew(plan, record);
  if (names.empty()) return "";
  return fmt::format("{} weights are quantized anew, not cast: {}{}", grouped(names.size()), names.front(),
                     names.size() == 1 ? "" : " and others");
}

std::string uncovered(const Plan& plan, const std::vector<LayerAmax>& layers) {
  std::string text;
  size_t known = 0, starved_layers = 0, starved = 0;
  for (const LayerAmax& layer : layers) {
    if (!knows_experts(layer)) continue;
    ++known;
    const std::vector<uint64_t> experts = experts_without_tokens(layer);
    if (experts.empty()) continue;
    if (starved_layers++ == 0)
      text = fmt::format("layer {}: {}", layer.layer, list_text(experts, kStarvedRanges));
    starved += experts.size();
  }
  const auto with_experts = static_cast<size_t>(std::ranges::count_if(
      plan.model->table.layers, [](const LayerTable& layer) { return layer.experts > 0; }));
  if (known < with_experts) {
    return fmt::format("nothing is known of the experts of {} of {} layers", with_experts - known,
                       with_experts);
  }
  if (starved == 0) return "";
  return fmt::format("{} experts of {} layers saw no token ({}{})", grouped(starved), starved_layers, text,
                     starved_layers > 1 ? "; ..." : "");
}

std::string unbounded(const Plan& plan, const std::vector<LayerAmax>& layers) {
  if (layers.empty()) return "no activations were measured";
  for (const LayerAmax& layer : layers) {
    const std::vector<Tap>& taps = plan.model->table.layers[layer.layer].taps;
    for (size_t tap = 0; tap < taps.size(); ++tap) {
      const TapBound& bound = plan.bounds[layer.layer][tap];
      for (const auto& [entry, most] : {std::pair(taps[tap].name, bound.most),
                                        std::pair(weighted_tap(taps[tap].name), bound.most_weighted)}) {
        const auto found = layer.taps.find(entry);
        if (found == layer.taps.end()) continue;
        for (const float value : found->second) {
          if (!(value >= 0 && value <= most))
            return fmt::format("layer {}: {} has an amax of {} where {} is the most", layer.layer, entry,
                               value, most);
        }
      }
    }
  }
  const std::vector<std::string> below = amax_below_bounds(plan, layers, "measured");
  return below.empty() ? "" : below.front();
}

void add_line(Condition condition, const std::string& problem, std::vector<std::string>& lines) {
  if (!problem.empty()) lines.push_back(unmet_line(condition, problem));
}

}  // namespace

void add_require(CLI::App& app, Conditions& conditions, const Conditions& allowed) {
  const auto parse = [&conditions, allowed](const std::vector<std::string>& names) {
    for (const std::string& name : names) conditions.insert(parse_condition(name, allowed));
  };
  app.add_option_function<std::vector<std::string>>("--require", parse,
                                                    "lossless,covered,...: exit code 6 where it is not so")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->option_text("LIST");
}

Conditions with_strict(Conditions conditions, bool strict, const Plan& plan) {
  if (!strict) return conditions;
  conditions.insert(Condition::kWindow);
  if (!plan.needs_activations()) return conditions;
  conditions.insert(Condition::kCovered);
  conditions.insert(Condition::kBounded);
  return conditions;
}

void refuse_unmet(const Conditions& conditions, const Checkpoint& source, const Plan& plan,
                  const Activations& activations, std::vector<Finding>& findings) {
  std::vector<std::string> lines;
  if (conditions.contains(Condition::kLossless))
    add_line(Condition::kLossless, lossy_weights(plan, {}), lines);
  const bool measures = activations.rows.has_value();
  if (activations.amax || !measures) {
    const std::vector<LayerAmax> layers =
        activations.amax ? activations.amax->layers : std::vector<LayerAmax>();
    if (conditions.contains(Condition::kCovered))
      add_line(Condition::kCovered, uncovered(plan, layers), lines);
    if (conditions.contains(Condition::kBounded))
      add_line(Condition::kBounded, unbounded(plan, layers), lines);
  }
  if (conditions.contains(Condition::kRows)) {
    if (!measures) add_line(Condition::kRows, "there are no calibration rows", lines);
    if (measures && !activations.rows->warnings.empty())
      add_line(Condition::kRows, activations.rows->warnings.front(), lines);
  }
  if (conditions.contains(Condition::kModel) && activations.amax)
    add_line(Condition::kModel,
             foreign_amax(source, plan, *activations.amax, activations.origin).value_or(""), lines);
  for (std::string& text : lines)
    findings.push_back({.severity = Severity::kRefusal, .reason = std::move(text), .remedy = {}});
}

std::vector<std::string> unmet(const Conditions& conditions, const Plan& plan, const RunRecord& record) {
  std::vector<std::string> lines;
  const bool outside = record.blocks.outside_window > 0 || !record.outside_window.empty();
  for (const Condition condition : {Condition::kLossless, Condition::kWindow}) {
    if (!conditions.contains(condition)) continue;
    if (condition == Condition::kLossless) add_line(condition, lossy_weights(plan, record), lines);
    if (outside) add_line(condition, window_problem(record), lines);
  }
  if (conditions.contains(Condition::kCovered))
    add_line(Condition::kCovered, uncovered(plan, record.layers), lines);
  if (conditions.contains(Condition::kBounded))
    add_line(Condition::kBounded, unbounded(plan, record.layers), lines);
  return lines;
}

RunRecord recorded_run(FileSystem& files, const std::filesystem::path& destination) {
  const std::filesystem::path path = destination / "nibblecast.json";
  RunRecord record;
  try {
    const Json document = parse_json(read_text(files, path, kMostRecordBytes), path.string());
    const Json& blocks = document.at("blocks");
    record.blocks.blocks = blocks.at("total").get<uint64_t>();
    record.blocks.outside_window = blocks.at("outside_window").get<uint64_t>();
    record.outside_window = document.at("outside_window").get<std::map<std::string, uint64_t>>();
    const Json losses = document.value("relative_error", Json::object());
    for (const auto& [name, unused] : losses.items()) record.losses[name] = {};
  } catch (const Json::exception&) {
    throw Error(ErrorKind::kBadInput, {.file = path.string()}, "does not say how many blocks were lossless",
                {.hint = "leave out --require, and verify the output against its source"});
  }
  const std::filesystem::path amax = destination / "calibration" / "amax.safetensors";
  if (files.status(amax)) record.layers = read_amax(files, amax).layers;
  return record;
}

int report_unmet(const std::vector<std::string>& lines) {
  for (const std::string& text : lines) print_error(ErrorKind::kVerifyFailed, text);
  return lines.empty() ? 0 : static_cast<int>(ErrorKind::kVerifyFailed);
}

}  // namespace nibblecast
