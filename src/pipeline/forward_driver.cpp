#include "pipeline/forward_driver.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "base/error.h"
#include "pipeline/group_parts.h"
#include "pipeline/saved_streams.h"

namespace nibblecast {

ForwardDriver::ForwardDriver(const Checkpoint& source, const Plan& plan, const Activations& activations,
                             Job& job, const RunOptions& options, RunRecord& record, RunProgress& progress,
                             Settled settled)
    : source_(source),
      plan_(plan),
      activations_(activations),
      job_(job),
      options_(options),
      record_(record),
      progress_(progress),
      settled_(std::move(settled)) {
  if (activations.rows) resume();
}

void ForwardDriver::resume() {
  const JobState& state = job_.state();
  if (state.layers.size() == plan_.layers()) {
    record_.perplexity = state.perplexity;
    if (state.perplexity) return;
    if (!state.streams || state.streams->layer < state.layers.size()) note_second_pass();
  }
  begin_pass();
  forward_from_ = 0;
  if (!state.streams) return;
  const SavedStreams& saved = *state.streams;
  pass_->forward().resume_at(saved.layer);
  if (load_streams(source_.files(), job_.work_folder(), saved, pass_->forward())) {
    forward_from_ = saved_at_ = saved.layer;
    return;
  }
  record_.notes.push_back(fmt::format("{} is missing or damaged: the forward pass starts at layer 0 again",
                                      (job_.work_folder() / saved.file).string()));
  begin_pass();
}

// Nothing was saved between the last layer and the head; or an older version began the job.
void ForwardDriver::note_second_pass() {
  const auto& streams = job_.state().streams;
  record_.notes.push_back(
      fmt::format("every layer is calibrated, but the perplexity of the rows is not in the journal: the "
                  "forward pass starts at layer {} again",
                  streams ? streams->layer : 0));
}

void ForwardDriver::begin_pass() {
  pass_.reset();  // first, so that a device holds only one
  pass_.emplace(source_, plan_, activations_.rows->ids, options_.device);
  if (plan_.options.second_moments) pass_->forward().measure_second_moments();
  if (options_.progress) pass_->forward().set_tick([this](double done) { progress_.tick(done); });
}

void ForwardDriver::begin_stage(size_t stage) {
  stage_ = stage;
  const std::optional<uint64_t> layer = plan_.stages[stage].layer;
  in_layer_ = layer && *layer >= *forward_from_;
  in_head_ = !layer && stage > 0;
  attended_ = false;
  if (in_layer_) pass_->expect_layer(*layer);
  if (in_head_) pass_->expect_head();
}

// All that a layer has before its MLPs is there.
void ForwardDriver::before(const Unit& unit) {
  if (in_layer_ && !attended_ && unit.is_mlp()) begin_layer();
}

void ForwardDriver::begin_layer() {
  progress_.begin_attention();
  report(Phase::kForward);
  pass_->forward().begin_layer();
  progress_.end_part();
  attended_ = true;
}

void ForwardDriver::take(const Unit& unit, const std::shared_ptr<const Reader::Loaded>& owner) {
  report(Phase::kForward);
  for (size_t range = 0; range < unit.reads.size(); ++range)
    pass_->take(unit.reads[range].file, unit.reads[range].begin, (*owner)[range], owner);
}

void ForwardDriver::mlp(const Unit& unit, std::span<const StoredLinear> views,
                        const std::shared_ptr<const Reader::Loaded>& owner) {
  report(Phase::kForward);
  progress_.begin_expert(*unit.group->expert);
  pass_->forward().expert(*unit.group->expert, mlp_of(*unit.group, views), owner);
  progress_.end_part();
}

void ForwardDriver::after() {
  if (ended_ && pass_->forward().layer_done()) settle();
  if (in_head_ && !record_.perplexity && pass_->head_done()) end_head();
}

// The layer's last unit was worked on. While a device is still computing it, the next one begins.
void ForwardDriver::end_stage() {
  if (!in_layer_) return;
  if (!attended_) begin_layer();
  if (ended_) settle();
  progress_.begin_shared();
  report(Phase::kForward);
  pass_->forward().end_layer();
  progress_.end_part();
  ended_ = stage_;
  const uint64_t next = *plan_.stages[stage_].layer + 1;
  const bool last = next == plan_.layers();
  // The head is as a layer; a run that never saved has no room on the disk for it either.
  const bool save = next - saved_at_ >= options_.checkpoint_every && !(last && saved_at_ == 0);
  if (last || save || pass_->forward().layer_done()) settle();
  if (save) save_streams_before(next);
}

// Of a forward pass that went through all layers.
void ForwardDriver::end_head() {
  report(Phase::kForward);
  record_.perplexity = pass_->perplexity();
  record_.device = pass_->forward().device_use();
  job_.journal().append(perplexity_entry(*record_.perplexity));
  save_amax(source_, plan_, activations_, options_, record_);
  check_perplexity(record_.perplexity, options_.max_perplexity);
}

// What the forward pass found out about the layer that ended.
void ForwardDriver::settle() {
  const size_t stage = *std::exchange(ended_, std::nullopt);
  const uint64_t layer = *plan_.stages[stage].layer;
  record_.layers.push_back(pass_->forward().layer_amax());
  record_.device = pass_->forward().device_use();
  const auto before = job_.state().layers.find(layer);
  if (before != job_.state().layers.end() && before->second != record_.layers.back()) {
    throw Error(ErrorKind::kInternal, {.file = job_.work_folder().string()},
                fmt::format("layer {} gives other activations than before the interruption", layer),
                {.hint = "is this the same machine, and is its memory sound? Begin again in another folder"});
  }
  job_.journal().append(layer_entry(record_.layers.back()));
  save_amax(source_, plan_, activations_, options_, record_);
  settled_(stage, record_.layers.back());
}

void ForwardDriver::save_streams_before(uint64_t layer) {
  const auto start = std::chrono::steady_clock::now();
  report(Phase::kSaveStreams);
  const SavedStreams saved = save_streams(source_.files(), job_.work_folder(), layer, pass_->forward());
  job_.journal().append(streams_entry(saved));
  remove_streams(source_.files(), job_.work_folder(), saved.file);
  saved_at_ = layer;
  record_.save_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace nibblecast
