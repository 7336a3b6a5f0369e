// pipeline/run_progress.h - how far a run is: where it stands, in words, and what of its work is done and
// left.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "calibration/rows.h"
#include "pipeline/units.h"
#include "plan/plan.h"
#include "plan/time_left.h"

namespace nibblecast {

// What the running thread is about to do.
enum class Phase { kRead, kForward, kMake, kSaveStreams, kFinish };

struct Progress {
  Phase phase = Phase::kRead;
  std::string stage = {};   // "embedding", "layer 3", "rest", "tensors"; a file's name
  std::string title = {};   // the stage for people, layers counted from 1: "layer 4 of 61"; empty: as `stage`
  std::string detail = {};  // "attention, row 3 of 8"; may be empty
  uint64_t stages_done = 0, stages = 0;
  uint64_t bytes_done = 0, bytes = 0;  // source bytes, of this attempt
  WorkLog work = {};
};

// One caller, as all of these follow the running thread.
class RunProgress {
 public:
  using Report = std::function<void(const Progress&)>;

  // `rows`: of the forward pass, may be null. `report` may be empty.
  RunProgress(const Plan& plan, const CalibrationRows* rows, Report report);

  // Before the run: all that it will do.
  void expect(std::span<const Unit> units, const Work& work);

  void begin_stage(size_t stage);
  // A call of the forward pass begins, for tick() to report from; end_part() says that it is over.
  void begin_attention();
  void begin_expert(uint64_t expert);
  void begin_shared();
  void tick(double done);
  void end_part();
  // What was read, and perhaps waited for, is worked on.
  void begin_unit(const Unit& unit);
  // `pending_bytes`: submitted by it or before it, and not yet in the files.
  void finish(const Unit& unit, uint64_t pending_bytes);

  void report(Phase phase);

  // As the journal names it: "layer 3".
  std::string stage_name() const;
  uint64_t read_bytes() const { return read_bytes_; }

 private:
  uint64_t mlps(uint64_t layer) const { return plan_.model->table.layers[layer].mlps(); }
  struct StageFlops {
    double attention = 0, expert = 0, shared = 0;  // expert: one of them, on average
  };
  StageFlops flops_of(uint64_t layer) const;
  WorkKind kind_of(const Unit& unit) const;
  WorkAmount amount_of(const Unit& unit) const;
  uint64_t tokens() const { return row_ends_.empty() ? 0 : row_ends_.back(); }
  void begin_part(WorkKind kind, double flops);
  void turn_to(WorkKind kind);
  std::string title() const;
  std::string detail(Phase phase) const;
  std::string row_text() const;
  WorkLog log();
  WorkAmount& done(WorkKind kind) { return log_.done[static_cast<size_t>(kind)]; }
  WorkAmount& left(WorkKind kind) { return log_.left[static_cast<size_t>(kind)]; }

  const Plan& plan_;
  const Report report_;
  std::vector<uint64_t> row_ends_;       // in tokens of all rows
  std::vector<bool> forward_;            // [stage]: a layer that the forward pass goes through
  std::vector<StageFlops> stage_flops_;  // [stage]
  bool head_ = false;                    // the forward pass goes through the head
  WorkLog log_;
  uint64_t read_bytes_ = 0, expected_bytes_ = 0, pending_bytes_ = 0;

  size_t stage_ = 0;
  WorkKind kind_ = WorkKind::kStreaming;
  std::chrono::steady_clock::time_point since_;  // when it turned to kind_
  double part_flops_ = 0, part_done_ = 0;        // of the call under way, the latter in [0, 1]
  std::optional<uint64_t> expert_;               // the last one
};

}  // namespace nibblecast
