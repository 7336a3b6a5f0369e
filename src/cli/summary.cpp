#include "cli/summary.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>

#include "cli/console.h"
#include "cli/reply.h"
#include "cli/text.h"

namespace nibblecast {
namespace {

constexpr size_t kMostNames = 10;
constexpr size_t kMostRanges = 12;

// Of weights that were quantized: the norm of the error over that of the weights, of all and of the worst.
std::string losses_text(const RunRecord& record) {
  std::string text;
  if (!record.losses.empty()) {
    RowLoss all;
    double worst = -1;
    std::string worst_name;
    for (const auto& [name, loss] : record.losses) {
      all.squared_error += loss.squared_error, all.squares += loss.squares;
      const double error = loss.squares > 0 ? std::sqrt(loss.squared_error / loss.squares) : 0;
      if (error > worst) worst = error, worst_name = name;
    }
    text += summary_line(
        "quantized",
        fmt::format("{} weights, relative error {:.3g}; the largest {:.3g} ({})",
                    grouped(record.losses.size()),
                    all.squares > 0 ? std::sqrt(all.squared_error / all.squares) : 0, worst, worst_name));
  }
  if (!record.inexact.empty()) {
    uint64_t values = 0;
    for (const auto& [name, count] : record.inexact) values += count;
    text += summary_line("rounded", fmt::format("{} values of {} tensors are not exact in BF16",
                                                grouped(values), grouped(record.inexact.size())));
  }
  return text;
}

}  // namespace

std::string summary_line(std::string_view label, std::string_view text) {
  return fmt::format("{:<12} {}\n", label, text);
}

std::string blocks_text(const RunRecord& record) {
  const CastCounts& blocks = record.blocks;
  std::string text = losses_text(record);
  if (blocks.blocks == 0) return text;
  text +=
      summary_line("blocks", fmt::format("{} of {} lossless", grouped(blocks.blocks - blocks.outside_window),
                                         grouped(blocks.blocks)));
  if (record.outside_window.empty()) return text;
  text += summary_line("outside",
                       fmt::format("{} blocks of {} tensors requantized (scale outside E4M3's window):",
                                   grouped(blocks.outside_window), grouped(record.outside_window.size())));
  size_t named = 0;
  for (const auto& [tensor, count] : record.outside_window) {
    if (named++ == kMostNames) break;
    text += summary_line("", fmt::format("{}  {}", tensor, grouped(count)));
  }
  if (record.outside_window.size() > kMostNames) {
    text += summary_line("", fmt::format("and {} tensors more: see nibblecast.json",
                                         grouped(record.outside_window.size() - kMostNames)));
  }
  return text;
}

std::string coverage_text(const RunRecord& record, const Plan& plan) {
  std::string text;
  const auto is_known = [](const LayerAmax& layer) { return knows_experts(layer); };
  if (std::ranges::none_of(record.layers, is_known)) return text;  // nothing was measured
  for (size_t layer = 0; layer < record.without_tokens.size(); ++layer) {
    const std::vector<uint64_t>& starved = record.without_tokens[layer];
    if (starved.empty()) continue;
    text += summary_line(
        text.empty() ? "coverage" : "",
        fmt::format("layer {}: {} of {} experts saw no token: {}", layer, grouped(starved.size()),
                    grouped(plan.model->table.layers[layer].experts), list_text(starved, kMostRanges)));
  }
  return text.empty() ? summary_line("coverage", "every expert of every layer saw tokens") : text;
}

std::string perplexity_text(const RunRecord& record) {
  if (!record.perplexity) return {};
  const std::string text =
      record.perplexity->tokens == 0
          ? "not measured: no row has two tokens"
          : fmt::format("{:.4g} ({} tokens)", record.perplexity->value(), grouped(record.perplexity->tokens));
  return summary_line("perplexity", "of the calibration rows " + text);
}

std::string device_text(const RunRecord& record) {
  const DeviceUse& use = record.device;
  if (use.uploaded_bytes == 0) return {};
  const std::string text = summary_line(
      "gpu",
      fmt::format("computing {:.0f} %, copying {:.0f} % of the time; {} bytes to it at {}",
                  100 * use.compute_seconds / std::max(record.seconds, 1e-9),
                  100 * use.upload_seconds / std::max(record.seconds, 1e-9), grouped(use.uploaded_bytes),
                  rate_text(static_cast<double>(use.uploaded_bytes) / std::max(use.upload_seconds, 1e-9))));
  std::string parts;
  for (const auto& [part, seconds] : use.parts)
    parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", part, duration_text(seconds));
  return parts.empty() ? text : text + summary_line("", parts);
}

Json device_use_json(const RunRecord& record) {
  Json layers = Json::object();
  for (const auto& [layer, seconds] : record.layer_seconds) layers[std::to_string(layer)] = seconds;
  const DeviceUse& use = record.device;
  return {{"uploaded_bytes", use.uploaded_bytes},          {"upload_seconds", use.upload_seconds},
          {"compute_seconds", use.compute_seconds},        {"parts", use.parts},
          {"read_wait_seconds", record.read_wait_seconds}, {"layer_seconds", std::move(layers)}};
}

void print_checksums(const ChecksumReport& report, const std::string& state, bool json) {
  if (json) {
    set_reply({{"state", state},
               {"problems", report.problems},
               {"notes", report.notes},
               {"tensors", report.tensors},
               {"bytes", report.bytes},
               {"files", report.files}});
    return;
  }
  std::string text = summary_line("state", state);
  for (const std::string& problem : report.problems) text += summary_line("problem", problem);
  for (const std::string& note : report.notes) text += summary_line("note", note);
  text += summary_line("checked", fmt::format("{} tensors, {} bytes; {} other files", grouped(report.tensors),
                                              grouped(report.bytes), report.files));
  print_data(text + summary_line("result", report.ok()
                                               ? "as it was written"
                                               : "WRONG: " + count_text(report.problems.size(), "problem")));
}

Json number_json(std::optional<double> value) {
  return value && std::isfinite(*value) ? Json(*value) : Json();
}

uint64_t peak_resident_bytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace nibblecast
