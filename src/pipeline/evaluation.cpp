#include "pipeline/evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/parallel.h"
#include "model/token_rows.h"
#include "ops/logits_divergence.h"
#include "pipeline/logits_meeting.h"
#include "pipeline/meeting_place.h"
#include "pipeline/model_walk.h"
#include "pipeline/saved_evaluation.h"
#include "pipeline/stream_errors.h"

namespace nibblecast {
namespace {

constexpr uint64_t kRoundedTokens =
    8192;  // whose inputs of one linear a pass holds, or those of a longer row

void add_losses(const RowLosses& losses, ModelEvaluation& model) {
  std::vector<double> sums;
  std::vector<uint64_t> tokens;
  for (const std::vector<float>& row : losses) {
    double sum = 0;
    for (const float nll : row) sum += double{nll};
    model.rows.push_back({row.size(), sum});
    sums.push_back(sum);
    tokens.push_back(row.size());
  }
  const RowMean mean = row_mean(sums, tokens);
  model.nll_mean = mean.mean;
  model.nll_stderr = mean.error;
}

std::vector<WorstToken> worst_of(const std::vector<std::vector<TokenDivergence>>& rows) {
  std::vector<WorstToken> all;
  for (size_t row = 0; row < rows.size(); ++row) {
    for (size_t at = 0; at < rows[row].size(); ++at)
      all.push_back({row, at + 1, rows[row][at].kl, rows[row][at].logprob_delta});
  }
  // NaN is worse than any number.
  const auto goodness = [](const WorstToken& token) { return std::isnan(token.kl) ? -INFINITY : -token.kl; };
  std::ranges::stable_sort(all, {}, goodness);
  all.resize(std::min(all.size(), kWorstTokens));
  return all;
}

// Of the tokens that predict one: those of a row but its last.
void add_divergence(const CalibrationRows& tokens, const RowLosses& source, const RowLosses& own,
                    const std::vector<LogitsDivergence>& states, ModelEvaluation& model) {
  std::vector<std::vector<TokenDivergence>> rows(source.size());
  size_t begin = 0;  // of the row's tokens
  for (size_t row = 0; row < source.size(); ++row) {
    for (size_t at = 0; at < source[row].size(); ++at) {
      const LogitsDivergence& state = states[begin + at];
      rows[row].push_back({.kl = kl_divergence(state),
                           .logprob_delta = double{source[row][at]} - double{own[row][at]},
                           .same_top1 = same_top1(state),
                           .top1_in_top5 = top1_in_top5(state)});
    }
    begin += tokens.ids[row].size();
  }
  model.against_source = divergence_of(rows);
  model.worst = worst_of(rows);
}

class Evaluator {
 public:
  Evaluator(std::span<const EvaluatedModel> models, const CalibrationRows& rows,
            const EvaluationOptions& options)
      : models_(models),
        rows_(rows),
        options_(options),
        place_(make_meeting_place(options.device)),
        parts_(*place_, rows.tokens(), models.size() - 1),
        stream_errors_(*place_, rows.tokens(), models[0].plan->options.compute_dtype) {
    if (!options.state_folder.empty())
      saved_.emplace(models[0].checkpoint->files(), options.state_folder, options.identity);
    begin_walks(saved_ && saved_->state() ? saved_->state()->layer : 0);
  }

  Evaluation run() {
    const auto start = std::chrono::steady_clock::now();
    const uint64_t layers = models_[0].plan->layers();
    for (size_t stage = first_stage(); stage <= layers; ++stage) {
      run_stage(stage);
      if (saved_ && stage > 0) save_when_due(stage);
    }
    run_head();
    if (saved_) saved_->remove();
    for (size_t index = 0; index < models_.size(); ++index) add_use(index);
    for (const auto& walk : walks_) result_.read_wait_seconds += walk->read_wait_seconds();
    result_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(result_);
  }

 private:
  using Clock = std::chrono::steady_clock;
  // Where a model computes.
  struct Stream {
    size_t walk = 0, pass = 0;
  };

  ForwardPass& forward(size_t index) const {
    return walks_[streams_[index].walk]->forward(streams_[index].pass);
  }
  // f(index) for all models of a walk.
  template <class F>
  void for_models(size_t walk, const F& f) const {
    for (size_t index = 0; index < streams_.size(); ++index)
      if (streams_[index].walk == walk) f(index);
  }

  // At `layer`, with the streams that were saved; from the begin where they are no more.
  void begin_walks(uint64_t layer) {
    walks_.clear();
    streams_.clear();
    bytes_ = 0;
    result_.models = std::vector<ModelEvaluation>(models_.size());
    result_.resumed_at = layer;
    for (size_t index = 0; index < models_.size(); index = streams_.size()) add_walk(index, layer);
    if (needs_blocks()) forward(0).measure_block_amaxes();
    saved_until_ = Clock::now();
    if (layer == 0) return;
    for (size_t index = 0; index < models_.size(); ++index) {
      if (!saved_->load(index, forward(index))) return begin_walks(0);
      result_.models[index].layers = saved_->state()->errors[index];
      result_.models[index].rounded = saved_->state()->rounded[index];
    }
  }

  // Before it was resumed, and since.
  std::optional<RoundedBlocks> rounded(size_t index) const {
    const std::optional<RoundedBlocks> before = result_.models[index].rounded,
                                       since = forward(index).rounded_blocks();
    if (!before || !since) return std::nullopt;
    return RoundedBlocks{before->blocks + since->blocks, before->saturated + since->saturated};
  }

  // Stage 0 is the embedding; layer L's is L + 1.
  size_t first_stage() const { return result_.resumed_at == 0 ? 0 : result_.resumed_at + 1; }

  // The first time at once, and then when 30 times as long has passed as saving took.
  void save_when_due(uint64_t layer) {
    constexpr int kShare = 30;
    const Clock::time_point now = Clock::now();
    if (now - saved_until_ < kShare * save_took_) return;
    std::vector<const ForwardPass*> passes;
    EvaluationState state{.layer = layer};
    for (size_t index = 0; index < models_.size(); ++index) {
      passes.push_back(&forward(index));
      state.errors.push_back(result_.models[index].layers);
      state.rounded.push_back(rounded(index));
    }
    saved_->save(std::move(state), passes);
    saved_until_ = Clock::now();
    save_took_ = saved_until_ - now;
  }

  bool needs_blocks() const {
    return std::ranges::any_of(models_, [](const EvaluatedModel& model) {
      return model.input_scale.base == InputScaleRule::Base::kPercentile;
    });
  }

  // Of the models from `first` on with one checkpoint; the source goes alone, before all others.
  void add_walk(size_t first, uint64_t layer) {
    WalkOptions walk{.device = options_.device,
                     .read_memory_bytes = options_.read_memory_bytes,
                     .read_threads = options_.read_threads,
                     .rules = {},
                     .first_layer = layer};
    if (options_.progress) walk.tick = [this] { report(); };
    const EvaluatedModel& model = models_[first];
    do {
      streams_.push_back({walks_.size(), walk.rules.size()});
      walk.rules.push_back(models_[streams_.size() - 1].input_scale);
    } while (first > 0 && streams_.size() < models_.size() &&
             models_[streams_.size()].checkpoint == model.checkpoint);
    walks_.push_back(std::make_unique<ModelWalk>(*model.checkpoint, *model.plan, rows_.ids, walk));
    bytes_ += walks_.back()->bytes();
    if (models_.size() == 1) return;
    for (size_t index = first; index < streams_.size(); ++index) {
      forward(index).show_in_place();
      forward(index).watch(index == 0 ? parts_.of_source() : parts_.of_candidate(index - 1));
    }
  }

  // Runs `f`; an error that names no file is the checkpoint's.
  template <class F>
  void of_walk(size_t walk, const F& f) {
    try {
      f();
    } catch (const Error& error) {
      if (!error.where().file.empty() || error.kind() == ErrorKind::kInterrupted) throw;
      Where where = error.where();
      const auto stream = std::ranges::find(streams_, walk, &Stream::walk);
      where.file = models_[static_cast<size_t>(stream - streams_.begin())].checkpoint->folder().string();
      throw Error(error.kind(), where, error.problem(), error.detail());
    }
  }

  // Stage 0 is the embedding, the others are layers.
  void run_stage(size_t stage) {
    const Clock::time_point start = Clock::now();
    parts_.begin_layer();
    for (size_t walk = 0; walk < walks_.size(); ++walk) {
      begin(stage == 0 ? "embedding" : fmt::format("layer {} of {}", stage, models_[0].plan->layers()), walk);
      of_walk(walk, [&] { walks_[walk]->run_stage(stage, blocks_); });
      if (walk == 0)
        blocks_ = forward(0).block_amaxes();
      else if (stage > 0)
        for_models(walk, [&](size_t index) { add_errors(index, stage - 1); });
    }
    if (stage > 0)
      result_.layer_seconds[stage - 1] = std::chrono::duration<double>(Clock::now() - start).count();
  }

  void add_errors(size_t index, uint64_t layer) {
    const ErrorSums sums = stream_errors_.between(forward(0), forward(index));
    result_.models[index].layers.push_back({.layer = layer,
                                            .stream_error = sums.error(),
                                            .stream_cosine = sums.cosine(),
                                            .mixer_error = parts_.mixer_error(index - 1),
                                            .ffn_error = parts_.ffn_error(index - 1),
                                            .routing_moved = parts_.routing_moved(index - 1)});
  }

  // A part of the vocabulary after the other, for all models.
  void run_head() {
    const size_t candidates = models_.size() - 1;
    LogitsMeeting meeting(*place_, rows_.tokens(), candidates);
    walks_[0]->begin_head(0, candidates > 0 ? meeting.source() : LogitsSink());
    for (size_t index = 1; index < models_.size(); ++index)
      walks_[streams_[index].walk]->begin_head(streams_[index].pass, meeting.candidate(index - 1));
    const uint64_t vocabulary = models_[0].plan->model->vocabulary.size;
    for (uint64_t row = 0; row < vocabulary; row += kHeadRows) {
      for (size_t walk = 0; walk < walks_.size(); ++walk) {
        begin("head", walk);
        of_walk(walk, [&] { walks_[walk]->head_until(std::min<uint64_t>(row + kHeadRows, vocabulary)); });
      }
      meeting.clear();
    }
    const RowLosses source = forward(0).row_losses();
    add_losses(source, result_.models[0]);
    for (const std::vector<float>& row : source) result_.tokens += row.size();
    for (size_t index = 1; index < models_.size(); ++index) {
      const RowLosses own = forward(index).row_losses();
      add_losses(own, result_.models[index]);
      add_divergence(rows_, source, own, meeting.states(index - 1), result_.models[index]);
    }
  }

  void add_use(size_t index) {
    const DeviceUse use = forward(index).device_use();
    result_.device.uploaded_bytes += use.uploaded_bytes;
    result_.device.upload_seconds += use.upload_seconds;
    result_.device.compute_seconds += use.compute_seconds;
    for (const auto& [part, seconds] : use.parts) result_.device.parts[part] += seconds;
    if (streams_[index].pass == 0)
      result_.models[index].read_bytes = walks_[streams_[index].walk]->read_bytes();
    result_.models[index].rounded = rounded(index);
  }

  void begin(const std::string& stage, size_t walk) {
    progress_.stage = stage;
    if (walks_.size() > 1)
      progress_.stage +=
          walk == 0 ? ", source" : fmt::format(", candidate {} of {}", walk, walks_.size() - 1);
    if (options_.progress) report();
  }

  void report() {
    progress_.bytes = bytes_;
    progress_.bytes_done = 0;
    for (const auto& walk : walks_) progress_.bytes_done += walk->read_bytes();
    options_.progress(progress_);
  }

  const std::span<const EvaluatedModel> models_;
  const CalibrationRows& rows_;
  const EvaluationOptions& options_;
  std::unique_ptr<MeetingPlace> place_;
  LayerParts parts_;
  StreamErrors stream_errors_;
  TapBlocks blocks_;  // of the source's layer, where they are needed
  std::vector<std::unique_ptr<ModelWalk>> walks_;
  std::vector<Stream> streams_;  // of the models
  uint64_t bytes_ = 0;           // that all will read
  EvaluationProgress progress_;
  Evaluation result_;
  std::optional<SavedEvaluation> saved_;
  Clock::time_point saved_until_;
  Clock::duration save_took_ = {};
};

// Of a linear in a layer.
uint64_t widest_input(const Model& model) {
  uint64_t widest = 0;
  for (const LayerTable& layer : model.table.layers)
    for (const WeightModule& module : layer.modules) widest = std::max(widest, module.shape[1]);
  return widest;
}

void require_predictions(const CalibrationRows& rows) {
  if (std::ranges::any_of(rows.ids, [](const auto& row) { return row.size() > 1; })) return;
  throw Error(ErrorKind::kBadInput, {}, "no row has two tokens, so that no token is predicted",
              {.hint = "give longer texts or rows (--text-seq), or --text-rows packed"});
}

}  // namespace

double ModelEvaluation::perplexity() const { return std::exp(nll_mean); }

Evaluation evaluate(std::span<const EvaluatedModel> models, const CalibrationRows& rows,
                    const EvaluationOptions& options) {
  require_predictions(rows);
  for (const EvaluatedModel& model : models.subspan(1))
    require_same_model(*models[0].plan, *model.plan, model.checkpoint->folder().string());
  return Evaluator(models, rows, options).run();
}

uint64_t rounded_inputs_bytes(const Model& model, const Workload& work) {
  const uint64_t tokens = std::min(work.tokens, std::max(kRoundedTokens, work.longest_row));
  return tokens * widest_input(model) * sizeof(float);
}

uint64_t evaluation_memory_bytes(const Model& model, const Workload& work, size_t models) {
  const uint64_t candidates = models - 1, tokens = work.tokens;
  uint64_t top = 0;
  for (const LayerTable& layer : model.table.layers) top = std::max(top, layer.top);
  const uint64_t of_candidates = candidates == 0 ? 0 : sizeof(LogitsDivergence) + top * sizeof(int32_t);
  return tokens * (models * (sizeof(float) + sizeof(TokenDivergence)) + of_candidates);
}

uint64_t meeting_bytes(const Model& model, const Workload& work, size_t models, bool on_device) {
  if (models == 1) return 0;
  const uint64_t candidates = models - 1, width = model.carried_width();
  const uint64_t hidden = model.table.globals.find({.role = Role::kEmbedding})->shape[1];
  const uint64_t a_token = (kHeadRows + 2 * hidden) * sizeof(float) + candidates * sizeof(LogitsDivergence) +
                           (1 + 2 * candidates) * sizeof(ErrorSums);
  const uint64_t streams = on_device ? MeetingPlace::kDeviceStreamBytes : MeetingPlace::kHostStreamBytes;
  return work.tokens * a_token + 2 * std::max(streams, width * sizeof(float));
}

}  // namespace nibblecast
