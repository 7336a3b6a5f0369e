// pipeline/model_walk.h - one checkpoint through its forward pass, or through several that differ in how
// inputs are rounded, stage by stage, so that several checkpoints can go in step: each reads its own weights,
// once, ahead of their use.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "pipeline/calibration_pass.h"
#include "pipeline/io_threads.h"
#include "pipeline/reader.h"
#include "pipeline/units.h"
#include "plan/forward_plan.h"
#include "plan/input_scale_rule.h"

namespace nibblecast {

struct WalkOptions {
  ForwardDevice device = {};
  uint64_t read_memory_bytes = 0;
  size_t read_threads = kIoThreads;
  std::vector<InputScaleRule> rules = std::vector<InputScaleRule>(1);  // of each pass; at least one
  uint64_t first_layer = 0;  // the streams that enter it are put into forward() before; 0: the embedding
  std::function<void()> tick = {};  // called now and then; may throw, which ends the walk
};

// Order of calls: run_stage() for all stages but the last, ascending, from that of `first_layer`;
// begin_head() of all passes, head_until() ascending to the vocabulary's size. One caller. Errors as those of
// the forward pass and the reader.
class ModelWalk {
 public:
  // `plan`: make_forward_plan() of `source`; both outlive this.
  ModelWalk(const Checkpoint& source, const Plan& plan, const std::vector<std::vector<int32_t>>& rows,
            const WalkOptions& options);

  size_t passes() const { return passes_.size(); }
  ForwardPass& forward(size_t pass) { return passes_[pass]->forward(); }
  // All of the embedding (stage 0) or of a layer; afterwards the streams are those that leave it.
  // `source_blocks`: of the layer, where a rule is a percentile.
  void run_stage(size_t stage, const TapBlocks& source_blocks);

  void begin_head(size_t pass, LogitsSink sink);
  // Goes on until the head's rows below `row` were taken, whose logits the sink then has.
  void head_until(uint64_t row);

  uint64_t bytes() const;  // that it reads in all
  uint64_t read_bytes() const { return read_bytes_; }
  double read_wait_seconds() const { return read_wait_seconds_; }

 private:
  using Loaded = std::shared_ptr<const Reader::Loaded>;

  Loaded next();
  void run_unit(const Unit& unit, const Loaded& loaded);
  void run_mlp(const Unit& unit, const Loaded& loaded);
  void set_scales(uint64_t layer, const TapBlocks& source_blocks);
  void take(const Unit& unit, size_t range, uint64_t begin, std::span<const std::byte> bytes,
            const Loaded& loaded);
  bool holds_head(const Unit& unit) const;

  const Checkpoint& source_;
  const Plan& plan_;
  const WalkOptions options_;
  const std::vector<Unit> units_;
  std::optional<Reader> reader_;  // before passes_, which may hold what it loaded
  std::vector<std::unique_ptr<CalibrationPass>> passes_;
  TensorReader scales_reader_;
  std::vector<LayerInputScales> scales_;  // of each pass, in the layer
  const Tensor* head_ = nullptr;
  size_t unit_ = 0;  // the next one
  bool attended_ = false;
  Loaded chunk_;              // of the unit before, which holds a part of the head
  uint64_t chunk_taken_ = 0;  // bytes of it
  uint64_t read_bytes_ = 0;
  double read_wait_seconds_ = 0;
};

}  // namespace nibblecast
