#include "cli/evaluate_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "cli/summary.h"
#include "cli/text.h"
#include "pipeline/run.h"

namespace nibblecast {
namespace {

constexpr size_t kIdsAround = 8;    // ids before and after a token that is listed
constexpr size_t kLayersShown = 3;  // that the text names

Json rows_json(const ModelEvaluation& model) {
  Json rows = Json::array();
  for (const RowNll& row : model.rows)
    rows.push_back({{"tokens", row.tokens}, {"nll_sum", number_json(row.nll_sum)}});
  return rows;
}

Json divergence_json(const Divergence& found) {
  return {{"kl_mean", number_json(found.kl_mean)},
          {"kl_stderr", number_json(found.kl_stderr)},
          {"kl_median", number_json(found.kl_median)},
          {"kl_p90", number_json(found.kl_p90)},
          {"kl_p99", number_json(found.kl_p99)},
          {"kl_p999", number_json(found.kl_p999)},
          {"kl_max", number_json(found.kl_max)},
          {"top1_agreement", number_json(found.top1_agreement)},
          {"top5_agreement", number_json(found.top5_agreement)},
          {"logprob_delta_mean", number_json(found.logprob_delta_mean)},
          {"logprob_delta_rms", number_json(found.logprob_delta_rms)},
          {"logprob_delta_p1", number_json(found.logprob_delta_p1)},
          {"logprob_delta_p99", number_json(found.logprob_delta_p99)}};
}

Json layers_json(const ModelEvaluation& model) {
  Json layers = Json::array();
  for (const LayerErrors& layer : model.layers) {
    layers.push_back({{"layer", layer.layer},
                      {"stream_error", number_json(layer.stream_error)},
                      {"stream_cosine", number_json(layer.stream_cosine)},
                      {"mixer_error", number_json(layer.mixer_error)},
                      {"ffn_error", number_json(layer.ffn_error)},
                      {"routing_moved", number_json(layer.routing_moved)}});
  }
  return layers;
}

// Ids [begin, end) of a row, as far as it has them.
std::vector<int32_t> ids_of(const std::vector<int32_t>& row, size_t begin, size_t end) {
  end = std::min(end, row.size());
  return {row.begin() + static_cast<ptrdiff_t>(std::min(begin, end)),
          row.begin() + static_cast<ptrdiff_t>(end)};
}

Json worst_json(const EvaluationOutcome& outcome, const ModelEvaluation& model) {
  Json worst = Json::array();
  for (const WorstToken& token : model.worst) {
    const std::vector<int32_t>& row = outcome.rows.ids[token.row];
    const size_t before = token.place - std::min(token.place, kIdsAround);
    const std::vector<int32_t> ids_before = ids_of(row, before, token.place),
                               ids_after = ids_of(row, token.place + 1, token.place + 1 + kIdsAround);
    worst.push_back({{"row", token.row},
                     {"place", token.place},
                     {"id", row[token.place]},
                     {"kl", number_json(token.kl)},
                     {"logprob_delta", number_json(token.logprob_delta)},
                     {"ids_before", ids_before},
                     {"ids_after", ids_after}});
    if (!outcome.texts) continue;
    worst.back()["before"] = outcome.texts->text(ids_before);
    worst.back()["token"] = outcome.texts->text(std::span(&row[token.place], 1));
    worst.back()["after"] = outcome.texts->text(ids_after);
  }
  return worst;
}

// What stands of a model whichever rule its inputs are rounded by.
Json figures_json(const ModelEvaluation& model) {
  Json json = {{"perplexity", number_json(model.perplexity())},
               {"nll_mean", number_json(model.nll_mean)},
               {"nll_stderr", number_json(model.nll_stderr)},
               {"rounded_blocks", model.rounded ? Json(model.rounded->blocks) : Json()},
               {"saturated_blocks", model.rounded ? Json(model.rounded->saturated) : Json()}};
  if (model.against_source) json["against_source"] = divergence_json(*model.against_source);
  return json;
}

Json input_scales_json(const EvaluationOutcome& outcome, size_t index) {
  Json scales = Json::array();
  for (size_t rule = 0; rule < outcome.input_scales.size(); ++rule) {
    scales.push_back(figures_json(outcome.model(index, rule)));
    scales.back()["input_scale"] = outcome.input_scales[rule];
  }
  return scales;
}

Json model_json(const EvaluationOutcome& outcome, size_t index) {
  const ModelEvaluation& model = outcome.model(index);
  Json json = figures_json(model);
  json.update({{"path", outcome.paths[index]},
               {"identity", outcome.identities[index]},
               {"bytes", {{"read", model.read_bytes}}},
               {"rows", rows_json(model)},
               {"layers", layers_json(model)}});
  if (!model.against_source) return json;
  json["worst_tokens"] = worst_json(outcome, model);
  if (outcome.input_scales.size() > 1) json["input_scales"] = input_scales_json(outcome, index);
  return json;
}

std::string with_error(double value, double error) {
  return std::isfinite(error) ? fmt::format("{:.4g} +- {:.2g}", value, error) : fmt::format("{:.4g}", value);
}

// Its error is that of the mean of the logarithms, times the perplexity.
std::string perplexity_line(const ModelEvaluation& model) {
  const double value = model.perplexity();
  return summary_line("perplexity", with_error(value, value * model.nll_stderr));
}

// Of inputs that were rounded: blocks above what their scale reaches.
std::string saturated_line(const ModelEvaluation& model) {
  if (!model.rounded || model.rounded->saturated == 0) return "";
  return summary_line("saturated",
                      fmt::format("{} of {} blocks of inputs are above what their input_scale reaches",
                                  grouped(model.rounded->saturated), grouped(model.rounded->blocks)));
}

std::string layers_line(const ModelEvaluation& model) {
  const std::vector<LayerErrors>& layers = model.layers;
  if (std::ranges::all_of(layers, [](const LayerErrors& layer) { return layer.stream_error == 0; }))
    return summary_line("streams", "equal after every layer");
  // By how much the error grew, which is what the layer added.
  std::vector<std::pair<double, uint64_t>> grown;
  double before = 0;
  for (const LayerErrors& layer : layers) {
    grown.emplace_back(before - layer.stream_error, layer.layer);
    before = layer.stream_error;
  }
  std::ranges::stable_sort(grown);
  std::string text =
      fmt::format("error {:.3g} after the last layer (cosine {:.6f}); it grows most in layer{}",
                  layers.back().stream_error, layers.back().stream_cosine, grown.size() == 1 ? "" : "s");
  for (size_t index = 0; index < std::min(kLayersShown, grown.size()); ++index)
    text += fmt::format("{} {}", index == 0 ? "" : ",", grown[index].second);
  return summary_line("streams", text);
}

// A line for each rule, the checkpoint's own first.
std::string input_scales_text(const EvaluationOutcome& outcome, size_t index) {
  std::string text;
  if (outcome.input_scales.size() == 1) return text;
  for (size_t rule = 0; rule < outcome.input_scales.size(); ++rule) {
    const ModelEvaluation& model = outcome.model(index, rule);
    const Divergence& found = *model.against_source;
    std::string line = fmt::format("{:<10}  KL {}, top token {:.2f} %, perplexity {:.4g}",
                                   outcome.input_scales[rule], with_error(found.kl_mean, found.kl_stderr),
                                   100 * found.top1_agreement, model.perplexity());
    if (model.rounded && model.rounded->saturated > 0)
      line += fmt::format(", {} blocks saturated", grouped(model.rounded->saturated));
    text += summary_line(rule == 0 ? "input_scale" : "", line);
  }
  return text;
}

std::string against_text(const ModelEvaluation& model) {
  const Divergence& found = *model.against_source;
  return summary_line("KL", fmt::format("{} nats a token; median {:.3g}, 99 % below {:.3g}, at most {:.3g}",
                                        with_error(found.kl_mean, found.kl_stderr), found.kl_median,
                                        found.kl_p99, found.kl_max)) +
         summary_line("top token",
                      fmt::format("the source's in {:.2f} %, among the five likeliest in {:.2f} %",
                                  100 * found.top1_agreement, 100 * found.top5_agreement)) +
         summary_line("log p", fmt::format("of the token that came: {:+.3g} on average, {:.3g} RMS",
                                           found.logprob_delta_mean, found.logprob_delta_rms)) +
         layers_line(model);
}

}  // namespace

std::string evaluation_text(const EvaluationOutcome& outcome) {
  const Evaluation& evaluation = outcome.evaluation;
  std::string text =
      summary_line("rows", fmt::format("{}, {} predicted", count_text(outcome.rows.ids.size(), "row"),
                                       count_text(evaluation.tokens, "token")));
  uint64_t read = 0;
  for (size_t index = 0; index < outcome.paths.size(); ++index) {
    const ModelEvaluation& model = outcome.model(index);
    text += summary_line(index == 0 ? "source" : "candidate", outcome.paths[index]) + perplexity_line(model) +
            saturated_line(model);
    if (model.against_source) text += against_text(model) + input_scales_text(outcome, index);
    read += model.read_bytes;
  }
  const double seconds = std::max(evaluation.seconds, 1e-9);
  return text +
         summary_line("time", fmt::format("{}; read {} at {}", duration_text(evaluation.seconds),
                                          size_text(read), rate_text(static_cast<double>(read) / seconds))) +
         summary_line("memory", size_text(peak_resident_bytes()) + " at most");
}

Json evaluation_json(const EvaluationOutcome& outcome) {
  const Evaluation& evaluation = outcome.evaluation;
  Json models = Json::array();
  uint64_t read = 0;
  for (size_t index = 0; index < outcome.paths.size(); ++index) {
    models.push_back(model_json(outcome, index));
    read += outcome.model(index).read_bytes;
  }
  RunRecord record;  // of a device, in the form that other commands have
  record.device = evaluation.device;
  record.layer_seconds = evaluation.layer_seconds;
  record.read_wait_seconds = evaluation.read_wait_seconds;
  return {{"tokens", evaluation.tokens},
          {"rows", outcome.rows.ids.size()},
          {"models", std::move(models)},
          {"seconds", evaluation.seconds},
          {"resumed_at_layer", evaluation.resumed_at},
          {"bytes", {{"read", read}}},
          {"peak_memory_bytes", peak_resident_bytes()},
          {"device", device_use_json(record)}};
}

}  // namespace nibblecast
