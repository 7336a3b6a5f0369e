#include "cli/run_summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>

#include "base/shell.h"
#include "checkpoint/parameters.h"
#include "cli/console.h"
#include "cli/reply.h"
#include "cli/summary.h"
#include "cli/text.h"
#include "pipeline/output.h"
#include "plan/engines.h"

namespace nibblecast {
namespace {

constexpr size_t kMostNames = 6;

double share(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

double bits_per_weight(uint64_t parameters, uint64_t bytes) { return 8 * share(bytes, parameters); }

uint64_t starved_experts(const RunRecord& record) {
  uint64_t count = 0;
  for (const std::vector<uint64_t>& layer : record.without_tokens) count += layer.size();
  return count;
}

// Where some FP8 experts were exactly MXFP4, of those that were not.
std::optional<std::string> inexact_experts(const RunOutcome& outcome) {
  const std::vector<uint32_t> tried = outcome.plan.tried_casts();
  std::vector<std::string> names;
  for (const uint32_t weight : tried) {
    const std::string& name = outcome.plan.tensors[weight].out.name;
    if (outcome.record.losses.contains(name)) names.push_back(name);
  }
  if (names.empty() || names.size() == tried.size()) return {};
  return fmt::format(
      "{} of {} weights of FP8 experts were quantized, because they are not exactly MXFP4 as the "
      "others are: {}{}",
      grouped(names.size()), grouped(tried.size()), names.front(), names.size() == 1 ? "" : " and others");
}

// What no warning said before the run, or while it went on.
std::vector<std::string> warnings_of(const RunOutcome& outcome) {
  const RunRecord& record = outcome.record;
  std::vector<std::string> warnings;
  if (record.blocks.outside_window > 0) {
    warnings.push_back(
        fmt::format("{} of {} were requantized, because their scales lie outside E4M3's window",
                    grouped(record.blocks.outside_window), count_text(record.blocks.blocks, "block")));
  }
  if (std::optional<std::string> inexact = inexact_experts(outcome)) warnings.push_back(std::move(*inexact));
  // Of an amax file it was known before, and is among the warnings above.
  const uint64_t starved = outcome.activations.amax ? 0 : starved_experts(record);
  if (starved > 0)
    warnings.push_back(count_text(starved, "expert") + " saw no token; more or other texts would reach them");
  return warnings;
}

// All that a reader should have seen before the output is used.
std::vector<std::string> all_warnings(const RunOutcome& outcome) {
  std::vector<std::string> warnings = outcome.warnings;
  for (const std::vector<std::string>& more : {outcome.record.notes, warnings_of(outcome)})
    warnings.insert(warnings.end(), more.begin(), more.end());
  return warnings;
}

std::string decimal_size(uint64_t bytes) {
  const double value = static_cast<double>(bytes);
  return value >= 1e9 ? fmt::format("{:.1f} GB", value / 1e9) : fmt::format("{:.1f} MB", value / 1e6);
}

std::string size_lines(const RunOutcome& outcome) {
  const Plan& plan = outcome.plan;
  const uint64_t parameters = parameter_count(outcome.source.tensors());
  return summary_line("output",
                      fmt::format("{}: {} in {}", outcome.output, count_text(plan.file_tensors(), "tensor"),
                                  count_text(plan.shards.size(), "shard"))) +
         summary_line(
             "size", fmt::format("{} (source {}); {} (source {:.2f})", decimal_size(plan.output_bytes),
                                 decimal_size(plan.source_bytes), weights_text(parameters, plan.output_bytes),
                                 bits_per_weight(parameters, plan.source_bytes)));
}

std::vector<std::string> engine_releases(const Plan& plan) {
  std::vector<std::string> releases;
  for (const Engine engine : loading_engines(plan)) releases.emplace_back(engine_release(engine));
  return releases;
}

std::string engines_line(const RunOutcome& outcome) {
  if (outcome.plan.command != "quantize") return "";
  const std::vector<std::string> engines = engine_releases(outcome.plan);
  return summary_line(
      "engines", engines.empty()
                     ? "none of vLLM, SGLang and TensorRT-LLM loads it: see docs/engines.md"
                     : fmt::format("{} load{} it", fmt::join(engines, ", "), engines.size() == 1 ? "s" : ""));
}

struct LeastTokens {
  int64_t tokens = 0;
  uint64_t layer = 0;
  size_t expert = 0;
};
// nullopt where no counts are known.
std::optional<LeastTokens> least_tokens(const RunRecord& record) {
  std::optional<LeastTokens> least;
  for (const LayerAmax& layer : record.layers) {
    const std::vector<int64_t>& tokens = layer.tokens;
    for (size_t expert = 0; expert < tokens.size(); ++expert) {
      if (!least || tokens[expert] < least->tokens)
        least = LeastTokens{.tokens = tokens[expert], .layer = layer.layer, .expert = expert};
    }
  }
  return least;
}

std::string calibrated_line(const RunOutcome& outcome) {
  if (!outcome.activations.rows) {
    return outcome.activations.amax ? summary_line("calibrated", "by " + outcome.activations.origin) : "";
  }
  const CalibrationRows& rows = *outcome.activations.rows;
  std::string text = fmt::format("{} of {}, {}", count_text(rows.ids.size(), "row"),
                                 "at most " + count_text(rows.longest(), "token"),
                                 count_text(rows.tokens(), "token") + " in all");
  if (const auto least = least_tokens(outcome.record)) {
    text += fmt::format("; fewest of an expert: {} (layer {}, expert {})",
                        grouped(static_cast<uint64_t>(std::max<int64_t>(0, least->tokens))), least->layer,
                        least->expert);
  }
  return summary_line("calibrated", text);
}

// The largest measured amax of a tap in any layer, and the bound that weights alone prove there.
struct Reach {
  float amax = 0, bound = 0;
  uint64_t layer = 0;
};

// By entry, of those with a bound.
std::map<std::string, Reach> reaches_of(const RunOutcome& outcome) {
  std::map<std::string, Reach> reaches;
  for (const LayerAmax& layer : outcome.record.layers) {
    if (layer.layer >= outcome.plan.bounds.size()) continue;
    const std::vector<Tap>& taps = outcome.plan.model->table.layers[layer.layer].taps;
    for (size_t tap = 0; tap < taps.size(); ++tap) {
      const TapBound& bound = outcome.plan.bounds[layer.layer][tap];
      for (const auto& [entry, most] : {std::pair(taps[tap].name, bound.most),
                                        std::pair(weighted_tap(taps[tap].name), bound.most_weighted)}) {
        const auto found = layer.taps.find(entry);
        if (found == layer.taps.end() || !std::isfinite(most)) continue;
        for (const float amax : found->second) {
          if (Reach& reach = reaches[entry]; amax > reach.amax)
            reach = {.amax = amax, .bound = most, .layer = layer.layer};
        }
      }
    }
  }
  return reaches;
}

std::string reach_text(const Reach& reach) {
  return fmt::format("at most {:.4g} of {:.4g} possible (layer {})", reach.amax, reach.bound, reach.layer);
}

std::string inputs_line(const RunOutcome& outcome) {
  std::string text;
  for (const auto& [entry, reach] : reaches_of(outcome)) {
    if (reach.amax > 0) text += summary_line(text.empty() ? "inputs" : "", entry + " " + reach_text(reach));
  }
  return text;
}

Json reach_json(const Reach& reach) {
  return {{"amax", reach.amax}, {"bound", reach.bound}, {"layer", reach.layer}};
}

struct AllAttempts {
  size_t count = 1, killed = 0;  // killed: how long they worked is not known
  double seconds = 0;
};

AllAttempts all_attempts(const RunOutcome& outcome) {
  const Json attempts = outcome.job.attempts_json("finished");
  AllAttempts all{.count = std::max<size_t>(1, attempts.size()), .seconds = outcome.record.seconds};
  for (size_t index = 0; index + 1 < attempts.size(); ++index) {
    const auto began = utc_seconds(attempts[index].value("began", "")),
               ended = utc_seconds(attempts[index].value("ended", ""));
    if (began && ended)
      all.seconds += static_cast<double>(*ended - *began);
    else
      ++all.killed;
  }
  return all;
}

std::string time_lines(const RunOutcome& outcome) {
  const RunRecord& record = outcome.record;
  const AllAttempts attempts = all_attempts(outcome);
  std::string text = duration_text(attempts.seconds);
  if (attempts.count > 1) {
    text += fmt::format(" in {}", count_text(attempts.count, "attempt"));
    if (attempts.killed > 0) text += fmt::format(" ({} killed and not counted)", attempts.killed);
    text += fmt::format(", the last {}", duration_text(record.seconds));
  }
  const double seconds = std::max(record.seconds, 1e-9);
  text += fmt::format("; read {} at {}", decimal_size(record.read_bytes),
                      rate_text(static_cast<double>(record.read_bytes) / seconds));
  if (record.written_bytes > 0) {
    text += fmt::format(", wrote {} at {}", decimal_size(record.written_bytes),
                        rate_text(static_cast<double>(record.written_bytes) / seconds));
  }
  return summary_line("time", text) + device_text(record) +
         summary_line("memory", size_text(peak_resident_bytes()) + " at most");
}

std::string verdict_line(const std::vector<std::string>& warnings) {
  return summary_line("result", warnings.empty()
                                    ? "good"
                                    : "done, with " + count_text(warnings.size(), "warning") + " (below)");
}

std::string warning_lines(const std::vector<std::string>& warnings) {
  std::string text;
  for (const std::string& warning : warnings) text += summary_line(text.empty() ? "warnings" : "", warning);
  return text;
}

std::string left_out_line(const RunOutcome& outcome) {
  const std::vector<std::filesystem::path> files = side_files(outcome.source).left_out;
  if (files.empty()) return "";
  std::string text;
  for (size_t index = 0; index < std::min(files.size(), kMostNames); ++index)
    text += (index == 0 ? "" : ", ") + files[index].string();
  if (files.size() > kMostNames) text += fmt::format(" and {} more", files.size() - kMostNames);
  return summary_line("left out", text + ": not the model's own (docs/cli.md, \"Files beside the weights\")");
}

}  // namespace

std::string weights_text(uint64_t parameters, uint64_t bytes) {
  const double count = static_cast<double>(parameters);
  const std::string number = count >= 1e12  ? fmt::format("{:.2f} trillion", count / 1e12)
                             : count >= 1e9 ? fmt::format("{:.1f} billion", count / 1e9)
                             : count >= 1e6 ? fmt::format("{:.1f} million", count / 1e6)
                                            : grouped(parameters);
  return fmt::format("{} parameters, {:.2f} bits per weight", number, bits_per_weight(parameters, bytes));
}

std::vector<std::string> warning_texts(const std::vector<Finding>& findings) {
  std::vector<std::string> texts;
  for (const Finding& finding : findings) {
    if (finding.severity == Severity::kWarning) texts.push_back(finding_text(finding));
  }
  return texts;
}

std::string run_text(const RunOutcome& outcome) {
  const std::vector<std::string> warnings = all_warnings(outcome);
  const bool covers = outcome.activations.rows || outcome.activations.amax;
  return verdict_line(warnings) + size_lines(outcome) + engines_line(outcome) + blocks_text(outcome.record) +
         calibrated_line(outcome) + (covers ? coverage_text(outcome.record, outcome.plan) : "") +
         perplexity_text(outcome.record) + inputs_line(outcome) + left_out_line(outcome) +
         warning_lines(warnings) + time_lines(outcome) +
         summary_line("next", fmt::format("nibblecast verify {} {}", shell_word(outcome.source_path),
                                          shell_word(outcome.output)));
}

std::string calibration_text(const RunOutcome& outcome) {
  const std::vector<std::string> warnings = all_warnings(outcome);
  return verdict_line(warnings) +
         summary_line("output", fmt::format("{}: {}", outcome.output,
                                            count_text(outcome.record.layers.size(), "layer"))) +
         calibrated_line(outcome) + coverage_text(outcome.record, outcome.plan) +
         perplexity_text(outcome.record) + inputs_line(outcome) + warning_lines(warnings) +
         time_lines(outcome) +
         summary_line("next", fmt::format("nibblecast quantize {} DST --amax {}",
                                          shell_word(outcome.source_path), shell_word(outcome.output)));
}

Json outcome_json(const RunOutcome& outcome) {
  for (const std::string& warning : warnings_of(outcome)) add_reply_warning(warning);
  const std::vector<std::string> warnings = all_warnings(outcome);
  Json json = {{"verdict", warnings.empty() ? "good" : "warnings"},
               {"parameters", parameter_count(outcome.source.tensors())},
               {"attempts_seconds", all_attempts(outcome).seconds}};
  if (!outcome.activations.rows && !outcome.activations.amax) return json;
  json["inputs"] = Json::object();
  for (const auto& [entry, reach] : reaches_of(outcome)) json["inputs"][entry] = reach_json(reach);
  if (const auto least = least_tokens(outcome.record)) {
    json["least_tokens"] = {{"tokens", least->tokens}, {"layer", least->layer}, {"expert", least->expert}};
  }
  return json;
}

Json run_json(const RunOutcome& outcome) {
  const Plan& plan = outcome.plan;
  Json json = run_document(outcome.source, plan, outcome.activations, outcome.record, outcome.job);
  json["finished_at"] = json["finished"];
  json["finished"] = true;
  json["source"]["path"] = outcome.source_path;
  json["destination"] = outcome.output;
  json["peak_memory_bytes"] = peak_resident_bytes();
  json["device"] = device_use_json(outcome.record);
  json.update(outcome_json(outcome));
  const uint64_t parameters = json["parameters"];
  json["bits_per_weight"] = bits_per_weight(parameters, plan.output_bytes);
  json["source_bits_per_weight"] = bits_per_weight(parameters, plan.source_bytes);
  if (plan.command == "quantize") json["loads_in"] = engine_releases(plan);
  return json;
}

void print_outcome(const RunOutcome& outcome, bool json) {
  if (json)
    set_reply(run_json(outcome));
  else
    print_data(run_text(outcome));
}

}  // namespace nibblecast
