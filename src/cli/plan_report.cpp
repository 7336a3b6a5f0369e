#include "cli/plan_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <utility>

#include "checkpoint/parameters.h"
#include "cli/console.h"
#include "cli/evaluation_run.h"
#include "cli/run_summary.h"
#include "cli/summary.h"
#include "cli/text.h"
#include "formats/nvfp4.h"

namespace nibblecast {
namespace {

struct Count {
  uint64_t tensors = 0, bytes = 0;
};

std::string_view make_name(Make make) {
  switch (make) {
    case Make::kKeep:
      return "kept";
    case Make::kCastWeight:
      return "cast";
    case Make::kNvfp4Weight:
      return "nvfp4";
    case Make::kFp8Weight:
    case Make::kFp8BlockWeight:
      return "fp8";
    case Make::kWideWeight:
      return "dequantized";
    case Make::kMxfp4Weight:
      return "mxfp4";
    case Make::kBlockScale:
      return "block scale";
    case Make::kWeightScale:
      return "weight scale";
    case Make::kInputScale:
      return "input_scale";
    case Make::kCacheScale:
      return "kv cache scale";
  }
  return "?";
}

// By how it is made, then dtype: "cast U8", "kept BF16".
std::map<std::pair<Make, Dtype>, Count> counts_of(const Plan& plan) {
  std::map<std::pair<Make, Dtype>, Count> counts;
  for (const PlannedTensor& tensor : plan.tensors) {
    Count& count = counts[{tensor.make, tensor.out.dtype}];
    ++count.tensors;
    count.bytes += tensor.out.size_bytes;
  }
  return counts;
}

const PlannedShard& largest_shard(const Plan& plan) {
  return *std::max_element(
      plan.shards.begin(), plan.shards.end(),
      [](const PlannedShard& a, const PlannedShard& b) { return a.size_bytes < b.size_bytes; });
}

bool is_safe(float bound) { return bound <= kNvfp4Max; }

struct Bounds {
  float least = INFINITY, largest = 0;
};

// By tap, of those of which the weights prove something, over all layers that have it.
std::map<std::string, Bounds> bounds_of(const Plan& plan) {
  std::map<std::string, Bounds> all;
  for (size_t layer = 0; layer < plan.bounds.size(); ++layer) {
    const std::vector<Tap>& taps = plan.model->table.layers[layer].taps;
    for (size_t tap = 0; tap < taps.size(); ++tap) {
      const float most = most_of(plan, taps[tap], plan.bounds[layer][tap]);
      if (!std::isfinite(most)) continue;
      Bounds& bounds = all[taps[tap].name];
      bounds.least = std::min(bounds.least, most);
      bounds.largest = std::max(bounds.largest, most);
    }
  }
  return all;
}

std::string bounds_text(const Plan& plan) {
  std::string text;
  for (const auto& [tap, bounds] : bounds_of(plan)) {
    std::string line = fmt::format("{} at most {:.5g}", tap, bounds.largest);
    if (bounds.least != bounds.largest)
      line += fmt::format(" (layers: {:.5g} to {:.5g})", bounds.least, bounds.largest);
    line += ", whatever the text: weights prove it";
    line +=
        is_safe(bounds.largest) ? "; --input-scale 1.0 cannot clip it" : "; --input-scale 1.0 could clip it";
    text += summary_line(text.empty() ? "bounds" : "", line);
  }
  return text;
}

std::string layers_text(const Model& model) {
  const uint64_t experts = model.table.most_experts();
  return experts == 0 ? fmt::format("{} layers", model.layers())
                      : fmt::format("{} layers of {} experts", model.layers(), experts);
}

std::string tried_text(const Plan& plan) {
  const size_t count = plan.tried_casts().size();
  if (count == 0) return "";
  return summary_line(
      "", fmt::format("of them {} of FP8 experts, which are looked at while they stream: cast where "
                      "they are exactly MXFP4, quantized where not",
                      grouped(count)));
}

// Which of both a family has.
std::string forward_pass_text(const Model& model) {
  const auto* const without = std::get_if<NoForwardPass>(&model.spec);
  if (without == nullptr) return "there is one: --calib, calibrate and evaluate";
  return fmt::format("none yet, which would need {}: --recipe w4a16_nvfp4, --input-scale 1.0, --amax FILE",
                     without->lacks);
}

std::string what_text(const PlanReport& report) {
  const Plan& plan = *report.plan;
  const uint64_t parameters = parameter_count(report.source->tensors());
  std::string text =
      summary_line("source", fmt::format("{}: {}, {}", report.source->folder().string(),
                                         plan.model->model_type, layers_text(*plan.model))) +
      summary_line("", fmt::format("{} tensors, {} bytes ({})", grouped(report.source->tensors().size()),
                                   grouped(plan.source_bytes), size_text(plan.source_bytes))) +
      summary_line("", weights_text(parameters, plan.source_bytes)) +
      summary_line("forward pass", forward_pass_text(*plan.model)) +
      summary_line("recipe", plan.options.recipe) +
      summary_line("output", fmt::format("{} tensors, {} bytes ({})", grouped(plan.tensors.size()),
                                         grouped(plan.output_bytes), size_text(plan.output_bytes))) +
      summary_line("", weights_text(parameters, plan.output_bytes));
  for (const auto& [kind, count] : counts_of(plan)) {
    text +=
        summary_line("", fmt::format("{:<15} {:<8} {:>9} tensors {:>19} bytes", make_name(kind.first),
                                     dtype_name(kind.second), grouped(count.tensors), grouped(count.bytes)));
  }
  text += tried_text(plan);
  const PlannedShard& largest = largest_shard(plan);
  return text + summary_line("shards", fmt::format("{}, {} bytes with headers; the largest {}: {} bytes",
                                                   plan.shards.size(), grouped(plan.output_file_bytes),
                                                   largest.name, grouped(largest.size_bytes)));
}

// Where a forward pass would run, and what it takes there.
std::string device_text(const PlanReport& report) {
  const ForwardDevice& device = report.preflight.device;
  std::string text = summary_line("device", report.device);
  if (!device.cuda || report.preflight.workload.tokens == 0) return text;
  const CudaMemory& memory = report.preflight.memory.device;
  text +=
      summary_line("", fmt::format("{} at most, of {} allowed; {} would do", size_text(memory.peak_bytes()),
                                   size_text(device.memory_bytes), size_text(memory.least_bytes)));
  return text +
         summary_line("", fmt::format("CUDA {}, buffers {}, streams {} {}, {} experts of {} on their way",
                                      size_text(memory.context_bytes), size_text(memory.fixed_bytes),
                                      size_text(memory.streams_bytes),
                                      memory.streams_resident ? "there" : "in host memory", memory.slots,
                                      size_text(memory.slot_bytes)));
}

Json device_json(const PlanReport& report) {
  const ForwardDevice& device = report.preflight.device;
  Json json = {{"device", report.device}};
  if (!device.cuda || report.preflight.workload.tokens == 0) return json;
  const CudaMemory& memory = report.preflight.memory.device;
  json["memory"] = {{"peak", memory.peak_bytes()},
                    {"limit", device.memory_bytes},
                    {"least", memory.least_bytes},
                    {"context", memory.context_bytes},
                    {"buffers", memory.fixed_bytes},
                    {"streams", memory.streams_bytes},
                    {"streams_resident", memory.streams_resident},
                    {"expert_slots", memory.slots},
                    {"expert_slot", memory.slot_bytes}};
  return json;
}

// Machines are shared and files are cached: what was measured in a moment holds within this factor.
constexpr double kUncertain = 1.5, kUncertainCompute = 2;
constexpr Workload kUsualCalibration = {.rows = 128, .tokens = 128 * 512, .longest_row = 512};

// "17 to 40 min": of `seconds` as they are measured.
std::string range_text(double seconds, bool computes) {
  const double factor = computes ? kUncertainCompute : kUncertain;
  return fmt::format("{} to {}", duration_text(seconds / factor), duration_text(seconds * factor));
}

std::string compute_text(const PlanReport& report, const Workload& workload) {
  const ComputeRates& compute = report.preflight.compute;
  std::string text = fmt::format("{} tokens, {:.3g} TFLOP at {:.3g} TFLOP/s", grouped(workload.tokens),
                                 static_cast<double>(workload.tokens) * report.plan->flops_per_token / 1e12,
                                 compute.flops_per_second / 1e12);
  if (compute.bus_bytes_per_second > 0)
    text += fmt::format(", weights to the GPU at {}", rate_text(compute.bus_bytes_per_second));
  return text;
}

// What a run would take; where no texts are named, with an amax file and with the usual calibration.
std::string time_text(const PlanReport& report) {
  const Preflight& found = report.preflight;
  if (!report.seconds) return summary_line("time", "unknown: the disk cannot be measured there");
  const std::string disk = fmt::format("read {}, write {}", rate_text(found.disk->read_bytes_per_second),
                                       rate_text(found.disk->write_bytes_per_second));
  const bool forward = found.workload.tokens > 0;
  const double io = estimated_seconds(*report.plan, {}, *found.disk, found.compute);
  const std::string first = summary_line(
      "time", fmt::format("{}{}: {}", range_text(*report.seconds, forward && *report.seconds > io),
                          report.calibration_seconds ? " with an amax file" : "",
                          forward ? disk + "; " + compute_text(report, found.workload) : disk));
  if (!report.calibration_seconds) return first;
  return first + summary_line(
                     "", fmt::format("{} with --calib, {} rows of {} tokens: {}",
                                     range_text(*report.calibration_seconds, true), kUsualCalibration.rows,
                                     kUsualCalibration.longest_row, compute_text(report, kUsualCalibration)));
}

std::string cost_text(const PlanReport& report) {
  const MemoryCost& memory = report.preflight.memory;
  std::string text =
      summary_line("memory", fmt::format("{} at most, of {} allowed", size_text(memory.peak_bytes()),
                                         size_text(report.preflight.memory_limit)));
  text +=
      summary_line("", fmt::format("program {}, reading {}, writing {}, making {}, dense {}, forward pass {}",
                                   size_text(memory.fixed_bytes), size_text(memory.read_bytes),
                                   size_text(memory.write_bytes), size_text(memory.make_bytes),
                                   size_text(memory.dense_bytes), size_text(memory.forward_bytes)));
  if (report.evaluation_bytes)
    text += summary_line("", fmt::format("{} for `evaluate SRC DST`, {} rows of {} tokens",
                                         size_text(*report.evaluation_bytes), kUsualEvaluation.rows,
                                         kUsualEvaluation.longest_row));
  text += device_text(report);
  text += summary_line(
      "disk", fmt::format("{} bytes needed, {} free at {}", grouped(report.preflight.disk_need),
                          grouped(report.preflight.disk_free), report.preflight.disk_folder.string()));
  if (report.preflight.checkpoint_every > 0) {
    const WorkCost& work = report.preflight.work;
    const uint64_t every = report.preflight.checkpoint_every;
    std::string state = "never saved";
    if (work.streams_bytes > 0) {
      state = size_text(work.streams_bytes) +
              (every == 1 ? ", saved after every layer" : fmt::format(", saved every {} layers", every));
    }
    text += summary_line("resume", fmt::format("calibration's state, {}; journal {} at most", state,
                                               size_text(work.journal_bytes)));
  }
  return text + time_text(report);
}

std::vector<std::string> rules_broken(const PlanReport& report, Engine engine) {
  std::vector<std::string> rules;
  for (const Breach& breach : report.breaches) {
    if (breach.engine == engine) rules.push_back(breach.rule);
  }
  return rules;
}

std::string engines_text(const PlanReport& report) {
  std::string text;
  for (const Engine engine : kAllEngines) {
    const std::vector<std::string> rules = rules_broken(report, engine);
    const bool named = report.plan->options.engines.contains(engine);
    std::string line = fmt::format("{}{}", engine_name(engine), named ? "" : " (not asked for)");
    line += rules.empty() ? ": loads it"
                          : fmt::format(": would not load it; {} of its rules broken", rules.size());
    text += summary_line(text.empty() ? "engines" : "", line);
  }
  return text;
}

Json bounds_json(const Plan& plan) {
  Json layers = Json::array();
  for (size_t layer = 0; layer < plan.bounds.size(); ++layer) {
    const std::vector<Tap>& taps = plan.model->table.layers[layer].taps;
    Json of_taps = Json::object();
    for (size_t tap = 0; tap < taps.size(); ++tap) {
      const float most = most_of(plan, taps[tap], plan.bounds[layer][tap]);
      if (std::isfinite(most)) of_taps[taps[tap].name] = {{"most", most}, {"one_is_safe", is_safe(most)}};
    }
    layers.push_back({{"layer", layer}, {"taps", std::move(of_taps)}});
  }
  return layers;
}

Json output_json(const Plan& plan) {
  Json kinds = Json::array();
  for (const auto& [kind, count] : counts_of(plan)) {
    kinds.push_back({{"made", make_name(kind.first)},
                     {"dtype", dtype_name(kind.second)},
                     {"tensors", count.tensors},
                     {"bytes", count.bytes}});
  }
  Json shards = Json::array();
  for (const PlannedShard& shard : plan.shards)
    shards.push_back({{"name", shard.name}, {"bytes", shard.size_bytes}});
  return {{"tensors", plan.tensors.size()},
          {"bytes", plan.output_bytes},
          {"file_bytes", plan.output_file_bytes},
          {"kinds", std::move(kinds)},
          {"cast_where_exact", plan.tried_casts().size()},
          {"shards", std::move(shards)}};
}

Json time_json(const PlanReport& report) {
  Json time = {{"seconds", report.seconds ? Json(*report.seconds) : Json()},
               {"rows", report.preflight.workload.rows},
               {"tokens", report.preflight.workload.tokens},
               {"flops_per_token", report.plan->flops_per_token}};
  if (report.preflight.disk) {
    time["read_bytes_per_second"] = report.preflight.disk->read_bytes_per_second;
    time["write_bytes_per_second"] = report.preflight.disk->write_bytes_per_second;
  }
  const ComputeRates& compute = report.preflight.compute;
  if (report.calibration_seconds) time["seconds_with_calibration"] = *report.calibration_seconds;
  if (compute.flops_per_second > 0) time["flops_per_second"] = compute.flops_per_second;
  if (compute.bus_bytes_per_second > 0) time["bus_bytes_per_second"] = compute.bus_bytes_per_second;
  return time;
}

Json engines_json(const PlanReport& report) {
  Json engines = Json::object();
  for (const Engine engine : kAllEngines) {
    const std::vector<std::string> rules = rules_broken(report, engine);
    engines[std::string(engine_name(engine))] = {{"asked_for", report.plan->options.engines.contains(engine)},
                                                 {"loads", rules.empty()},
                                                 {"breaches", rules}};
  }
  return engines;
}

}  // namespace

std::string plan_text(const PlanReport& report) {
  std::string text = what_text(report) + cost_text(report) + bounds_text(*report.plan) + engines_text(report);
  for (const Finding& finding : report.preflight.findings) {
    if (finding.severity == Severity::kWarning) text += summary_line("warning", finding_text(finding));
  }
  return text;
}

std::optional<double> usual_calibration_seconds(const Plan& plan, const Preflight& found) {
  const bool possible = plan.model->has_forward_pass() && found.disk && found.workload.tokens == 0 &&
                        found.compute.flops_per_second > 0;
  if (!possible) return std::nullopt;
  return estimated_seconds(plan, kUsualCalibration, *found.disk, found.compute);
}

Json plan_json(const PlanReport& report) {
  const Plan& plan = *report.plan;
  const MemoryCost& memory = report.preflight.memory;
  return {{"version", NIBBLECAST_VERSION},
          {"recipe", plan.options.recipe},
          {"source",
           {{"path", report.source->folder().string()},
            {"identity", source_identity(*report.source)},
            {"family", plan.model->family},
            {"forward_pass", plan.model->has_forward_pass()},
            {"layers", plan.layers()},
            {"experts", plan.model->table.most_experts()},
            {"tensors", report.source->tensors().size()},
            {"parameters", parameter_count(report.source->tensors())},
            {"bytes", plan.source_bytes}}},
          {"output", output_json(plan)},
          {"memory",
           {{"peak", memory.peak_bytes()},
            {"evaluate", report.evaluation_bytes ? Json(*report.evaluation_bytes) : Json()},
            {"limit", report.preflight.memory_limit},
            {"fixed", memory.fixed_bytes},
            {"read", memory.read_bytes},
            {"write", memory.write_bytes},
            {"make", memory.make_bytes},
            {"dense", memory.dense_bytes},
            {"forward", memory.forward_bytes}}},
          {"device", device_json(report)},
          {"disk",
           {{"folder", report.preflight.disk_folder.string()},
            {"needed", report.preflight.disk_need},
            {"free", report.preflight.disk_free}}},
          {"resume",
           {{"journal_bytes", report.preflight.work.journal_bytes},
            {"state_bytes", report.preflight.work.streams_bytes},
            {"checkpoint_every", report.preflight.checkpoint_every}}},
          {"time", time_json(report)},
          {"bounds", bounds_json(plan)},
          {"engines", engines_json(report)}};
}

}  // namespace nibblecast
