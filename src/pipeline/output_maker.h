// pipeline/output_maker.h - makes the output of a run, unit by unit: kept bytes are copied, weights are made,
// scalars are collected; what is durable is journaled.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/hash.h"
#include "checkpoint/checkpoint.h"
#include "pipeline/committer.h"
#include "pipeline/group_maker.h"
#include "pipeline/job.h"
#include "pipeline/run.h"
#include "pipeline/units.h"
#include "pipeline/writer.h"
#include "plan/plan.h"
#include "plan/second_moments.h"

namespace nibblecast {

// One caller; Writer and Committer work behind it.
class OutputMaker {
 public:
  // Shards that an earlier attempt wrote into are gone on with. What is lost is journaled before a shard gets
  // its size again: nothing may speak for the zeros in it. `record` gets what is found out; it and all others
  // outlive this.
  OutputMaker(const Checkpoint& source, const Plan& plan, const Activations& activations, Job& job,
              const RunOptions& options, const std::filesystem::path& destination, RunRecord& record);

  // Whether this tensor is still to be made.
  bool writes(uint32_t tensor) const { return !durable_.contains(tensor); }

  // `bytes`: of the unit's pieces, one after the other. `nonfinite` knows of each tensor that ends.
  void copy(const Unit& unit, std::span<const std::byte> bytes, const NonFiniteCount& nonfinite,
            std::string_view stage);
  // Weights and block scales of a group, whose linears lie in memory as `views`.
  void make(const Unit& unit, std::span<const StoredLinear> views, std::string_view stage);
  void set_scalar(uint32_t tensor, float value);

  uint64_t pending_bytes() const { return writer_->pending_bytes(); }
  double write_wait_seconds() const { return writer_->wait_seconds(); }
  bool has_device_maker() const { return device_maker_ != nullptr; }
  // After all units and scalars: headers and scalars, and everything durable.
  void finish();
  // Where the run ended early.
  void flush_quietly() { committer_->flush_quietly(); }

 private:
  void open(const std::filesystem::path& destination);
  void stamp_again(const std::vector<std::unique_ptr<File>>& shards, const std::vector<uint32_t>& read_back);
  void report_read_back(uint64_t done, uint64_t of) const;
  void set_constant_input_scales();
  void add_kept(const Piece& piece, std::span<const std::byte> bytes, const NonFiniteCount& nonfinite,
                DoneUnit& done);
  void submit(Writer::Batch batch, DoneUnit done, std::string_view stage);
  void note_made(std::span<const LinearTask> tasks, std::span<const MadeLinear> made, DoneUnit& done);
  void add_rows(const Unit& unit, uint32_t tensor, std::span<const std::byte> bytes, const MadeCounts& counts,
                DoneUnit& done);
  void count(uint32_t weight, const MadeCounts& counts);
  void finish_checksum(uint32_t tensor);

  const Checkpoint& source_;
  const Plan& plan_;
  Job& job_;
  const RunOptions& options_;
  RunRecord& record_;
  std::unordered_map<uint32_t, DurableTensor>& durable_;  // before this attempt
  std::vector<std::vector<std::byte>> scalars_;           // [shard]: the bytes between header and the rest
  std::unique_ptr<Nvfp4Maker> device_maker_;
  std::optional<Writer> writer_;
  std::optional<Committer> committer_;
  std::optional<ChannelWeights> channel_weights_;  // where the plan needs them
  Hash kept_hash_;                                 // of the kept tensor in progress
  Hash rows_hash_;                                 // of the tensor that is made by rows
  MadeCounts rows_counts_;
};

// Of the tensors that earlier attempts made durable: what the record and `nonfinite` have of them. Also where
// nothing is written.
void take_over_counts(const Checkpoint& source, const Plan& plan, const JobState& state, RunRecord& record,
                      NonFiniteCount& nonfinite);

}  // namespace nibblecast
