// pipeline/forward_driver.h - drives a run's forward pass from the stream of weights: where it begins, what it
// is given when, and what becomes of the activations that it measures.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "checkpoint/checkpoint.h"
#include "pipeline/calibration_pass.h"
#include "pipeline/job.h"
#include "pipeline/reader.h"
#include "pipeline/run.h"
#include "pipeline/run_progress.h"
#include "pipeline/units.h"
#include "plan/plan.h"

namespace nibblecast {

// Order of calls, per stage: begin_stage(); for each unit before(), take() or mlp(), after(); end_stage(). All
// but active() only where it is true. One caller.
class ForwardDriver {
 public:
  // Called when a layer's activations are known, in order; a device may be a layer behind.
  using Settled = std::function<void(size_t stage, const LayerAmax& amax)>;

  // Begins at the saved streams, or at the embedding; not at all where every layer and the perplexity are
  // known. What is handed in outlives this; `record` gets layers, perplexity, notes.
  ForwardDriver(const Checkpoint& source, const Plan& plan, const Activations& activations, Job& job,
                const RunOptions& options, RunRecord& record, RunProgress& progress, Settled settled);

  bool active() const { return pass_.has_value(); }
  std::optional<uint64_t> forward_from() const { return forward_from_; }

  void begin_stage(size_t stage);
  void before(const Unit& unit);
  void take(const Unit& unit, const std::shared_ptr<const Reader::Loaded>& owner);
  void mlp(const Unit& unit, std::span<const StoredLinear> views,
           const std::shared_ptr<const Reader::Loaded>& owner);
  void after();
  void end_stage();

 private:
  void resume();
  void note_second_pass();
  void begin_pass();
  void begin_layer();
  void settle();
  void end_head();
  void save_streams_before(uint64_t layer);
  void report(Phase phase) { progress_.report(phase); }

  const Checkpoint& source_;
  const Plan& plan_;
  const Activations& activations_;
  Job& job_;
  const RunOptions& options_;
  RunRecord& record_;
  RunProgress& progress_;
  const Settled settled_;
  std::optional<CalibrationPass> pass_;
  std::optional<uint64_t> forward_from_;
  std::optional<size_t> ended_;  // stage of the layer that ended and is not settled
  uint64_t saved_at_ = 0;        // layer that the saved streams enter
  size_t stage_ = 0;
  bool in_layer_ = false, in_head_ = false, attended_ = false;
};

}  // namespace nibblecast
