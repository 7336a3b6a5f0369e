#include "pipeline/run_progress.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibblecast {
namespace {

bool has_draft_layers(const Plan& plan) {
  return plan.model && std::ranges::any_of(plan.stages.back().kept, [&](uint32_t tensor) {
    return plan.model->table.passes_through(plan.tensors[tensor].out.name);
  });
}

uint64_t head_bytes(const Plan& plan, const Unit& unit) {
  const std::string head = head_weight(plan);
  uint64_t bytes = 0;
  for (const Piece& piece : unit.pieces)
    if (plan.tensors[piece.tensor].out.name == head) bytes += piece.size_bytes;
  return bytes;
}

}  // namespace

RunProgress::RunProgress(const Plan& plan, const CalibrationRows* rows, Report report)
    : plan_(plan),
      report_(std::move(report)),
      forward_(plan.stages.size()),
      stage_flops_(plan.stages.size()),
      since_(std::chrono::steady_clock::now()) {
  if (rows == nullptr) return;
  uint64_t end = 0;
  for (const std::vector<int32_t>& row : rows->ids) row_ends_.push_back(end += row.size());
}

void RunProgress::expect(std::span<const Unit> units, const Work& work) {
  for (size_t stage = 0; stage < plan_.stages.size(); ++stage) {
    const std::optional<uint64_t> layer = plan_.stages[stage].layer;
    forward_[stage] = layer && is_forward(plan_, work, stage);
    if (!forward_[stage]) continue;
    const StageFlops flops = stage_flops_[stage] = flops_of(*layer);
    left(WorkKind::kAttention).flops += flops.attention;
    left(WorkKind::kExperts).flops +=
        flops.expert * static_cast<double>(mlps(*layer)) + flops.shared;
  }
  head_ = tokens() > 0 && plan_.stages.size() > 1 && is_forward(plan_, work, plan_.stages.size() - 1);
  for (const Unit& unit : units) {
    expected_bytes_ += unit.size_bytes();
    left(kind_of(unit)) += amount_of(unit);
  }
}

WorkKind RunProgress::kind_of(const Unit& unit) const {
  if (forward_[unit.stage]) return WorkKind::kExperts;
  return head_ && head_bytes(plan_, unit) > 0 ? WorkKind::kHead : WorkKind::kStreaming;
}

// Of a layer's units the arithmetic is counted by parts.
WorkAmount RunProgress::amount_of(const Unit& unit) const {
  WorkAmount amount{.read_bytes = static_cast<double>(unit.size_bytes()),
                    .written_bytes = static_cast<double>(written_bytes(plan_, unit))};
  if (kind_of(unit) == WorkKind::kHead) {
    const double width = static_cast<double>(sizeof(bf16));  // of a weight as stored; F32 heads count double
    amount.flops = 2 * static_cast<double>(head_bytes(plan_, unit)) / width * static_cast<double>(tokens());
  }
  return amount;
}

RunProgress::StageFlops RunProgress::flops_of(uint64_t layer) const {
  const LayerFlops flops = layer_flops(*plan_.model, layer);
  const double all = static_cast<double>(tokens());
  double attention = flops.attention * all;
  for (size_t row = 0; row < row_ends_.size(); ++row) {
    const uint64_t length = row_ends_[row] - (row == 0 ? 0 : row_ends_[row - 1]);
    attention += score_flops(*plan_.model, layer, length) * static_cast<double>(length);
  }
  return {.attention = attention,
          .expert = flops.routed * all / static_cast<double>(mlps(layer)),
          .shared = flops.shared * all};
}

void RunProgress::turn_to(WorkKind kind) {
  const auto now = std::chrono::steady_clock::now();
  log_.seconds[static_cast<size_t>(kind_)] += std::chrono::duration<double>(now - since_).count();
  kind_ = kind;
  since_ = now;
}

void RunProgress::begin_stage(size_t stage) {
  stage_ = stage;
  expert_.reset();
  turn_to(forward_[stage] ? WorkKind::kExperts : WorkKind::kStreaming);
}

void RunProgress::begin_part(WorkKind kind, double flops) {
  turn_to(kind);
  part_flops_ = flops;
  part_done_ = 0;
}

void RunProgress::begin_attention() { begin_part(WorkKind::kAttention, stage_flops_[stage_].attention); }

void RunProgress::begin_expert(uint64_t expert) {
  expert_ = expert;
  begin_part(WorkKind::kExperts, stage_flops_[stage_].expert);
}

void RunProgress::begin_shared() {
  expert_.reset();
  begin_part(WorkKind::kExperts, stage_flops_[stage_].shared);
}

void RunProgress::tick(double done) {
  part_done_ = std::clamp(done, 0.0, 1.0);
  report(Phase::kForward);
}

void RunProgress::end_part() {
  const WorkAmount part{.flops = part_flops_};
  done(kind_) += part;
  left(kind_) -= part;
  part_flops_ = part_done_ = 0;
  turn_to(WorkKind::kExperts);
}

void RunProgress::begin_unit(const Unit& unit) { turn_to(kind_of(unit)); }

void RunProgress::finish(const Unit& unit, uint64_t pending_bytes) {
  const WorkAmount amount = amount_of(unit);
  const WorkKind kind = kind_of(unit);
  done(kind) += amount;
  left(kind) -= amount;
  read_bytes_ += unit.size_bytes();
  pending_bytes_ = pending_bytes;
}

// With the parts of what is under way.
WorkLog RunProgress::log() {
  turn_to(kind_);
  WorkLog log = log_;
  const auto kind = static_cast<size_t>(kind_);
  const WorkAmount part{.flops = part_flops_ * part_done_};
  log.done[kind] += part;
  log.left[kind] -= part;
  // Not yet in the files, whichever stage made it.
  const auto streamed = static_cast<size_t>(forward_[stage_] ? WorkKind::kExperts : WorkKind::kStreaming);
  const WorkAmount pending{
      .written_bytes = std::min(static_cast<double>(pending_bytes_), log.done[streamed].written_bytes)};
  log.done[streamed] -= pending;
  log.left[streamed] += pending;
  return log;
}

std::string RunProgress::stage_name() const {
  const std::optional<uint64_t> layer = plan_.stages[stage_].layer;
  if (plan_.stages.size() == 1) return "tensors";
  return layer ? fmt::format("layer {}", *layer) : stage_ == 0 ? "embedding" : "rest";
}

std::string RunProgress::title() const {
  const std::optional<uint64_t> layer = plan_.stages[stage_].layer;
  if (layer) return fmt::format("layer {} of {}", *layer + 1, plan_.layers());
  if (plan_.stages.size() == 1 || stage_ == 0) return "";
  return has_draft_layers(plan_) ? "draft layers and head" : "head";
}

// The row that attention is in.
std::string RunProgress::row_text() const {
  const double tokens = part_done_ * static_cast<double>(row_ends_.back());
  const auto row = std::ranges::upper_bound(row_ends_, static_cast<uint64_t>(tokens));
  const auto number = static_cast<size_t>(row - row_ends_.begin()) + 1;
  return fmt::format("row {} of {}", std::min(number, row_ends_.size()), row_ends_.size());
}

std::string RunProgress::detail(Phase phase) const {
  if (phase == Phase::kFinish) return "waiting for the disk";
  if (phase == Phase::kSaveStreams) return "saving the state";
  if (kind_ == WorkKind::kAttention) return "attention, " + row_text();
  const std::optional<uint64_t> layer = plan_.stages[stage_].layer;
  if (expert_ && layer)
    return mlps(*layer) > 1 ? fmt::format("expert {} of {}", *expert_ + 1, mlps(*layer)) : "MLP";
  return part_flops_ > 0 ? "shared expert" : "";
}

void RunProgress::report(Phase phase) {
  if (!report_) return;
  report_({.phase = phase,
           .stage = stage_name(),
           .title = title(),
           .detail = detail(phase),
           .stages_done = stage_,
           .stages = plan_.stages.size(),
           .bytes_done = read_bytes_,
           .bytes = expected_bytes_,
           .work = log()});
}

}  // namespace nibblecast
