// pipeline/calibration_pass.h - feeds the forward pass from the stream of weights.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "model/activation_amax.h"
#include "model/forward_pass.h"
#include "pipeline/plain_rows.h"
#include "plan/plan.h"

namespace nibblecast {

// Takes kept bytes as they stream by, in ascending order within a shard, and expert weights; per layer:
// expect_layer(), take() for all the layer's kept bytes, begin_layer(), expert() ascending, end_layer();
// after the last one expect_head(), take() with what the head needs before its weight, then that, and
// perplexity(). One caller.
class CalibrationPass {
 public:
  CalibrationPass(const Checkpoint& source, const Plan& plan, std::vector<std::vector<int32_t>> rows,
                  const ForwardDevice& device);

  // For what has nothing to do with where bytes come from: streams, resume_at(), experts, the layer's end.
  ForwardPass& forward() { return *forward_; }

  void expect_layer(uint64_t layer);
  // `sink`, which may be empty, is given all logits.
  void expect_head(LogitsSink sink = {});
  // Bytes [begin, begin + size) of shard `shard`, which `owner` keeps: hands on what the layer (or the
  // embedding) needs of them.
  void take(uint32_t shard, uint64_t begin, std::span<const std::byte> bytes,
            const ForwardPass::Owner& owner);

  // Whether all of the head's weight was taken.
  bool head_done() const { return head_done_; }
  // Of the rows, then; waits for a device.
  Perplexity perplexity() { return perplexity_of(forward_->row_losses()); }

 private:
  // A layer's tensors that take() must have seen before begin_layer(); of "layer" Plan::layers(),
  // begin_head().
  std::vector<Tensor> needed(uint64_t layer) const;
  void take_head(const Tensor& tensor, uint64_t begin_in_tensor, std::span<const std::byte> bytes,
                 const ForwardPass::Owner& owner);
  void take_embedding(const Tensor& tensor, std::span<const std::byte> bytes,
                      const ForwardPass::Owner& owner);
  // The next bytes as the pass takes them.
  void embed(uint64_t row_bytes, std::span<const std::byte> bytes);

  const Checkpoint& source_;
  const Plan& plan_;
  std::unique_ptr<ForwardPass> forward_;
  std::unordered_set<std::string> expected_;  // dense tensors of the layer, or what precedes head.weight
  const std::string head_;                    // the tensors' names; one and the same where the head is tied
  std::string embedding_;
  // As the pass takes them; `head_taken_` bytes of the head so far.
  PlainRows embedding_rows_, head_rows_;
  uint64_t head_taken_ = 0;
  LogitsSink sink_;
  bool head_expected_ = false, head_done_ = false;
  std::vector<std::byte> partial_row_;  // of the embedding as the pass takes it, cut by the end of a chunk
  uint64_t embedded_rows_ = 0;
};

}  // namespace nibblecast
