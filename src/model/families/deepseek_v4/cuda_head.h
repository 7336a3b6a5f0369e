// model/families/deepseek_v4/cuda_head.h - the end of the forward pass on a CUDA device; as head.h.
// Internal to model/deepseek_v4_cuda*.cpp.
//
// While one block of head.weight goes over the tokens, the next one crosses the bus.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/families/deepseek_v4/cuda_state.h"
#include "model/logits.h"

namespace nibblecast {

template <class T>
class CudaHead {
 public:
  // Streams to what the head sees, in state.tokens->x_ffn. `state` outlives this; the buffers of attention
  // and experts are in use no more.
  CudaHead(CudaForwardState<T>& state, HeadWeights weights, LogitsSink sink);

  // The next bytes of head.weight, cut anywhere; they are read until the stream of copies is past them.
  void add(uint64_t begin, std::span<const std::byte> bytes);
  RowLosses losses();  // after all of them; waits

 private:
  struct Slot {
    CudaEvent copied, used;
  };
  void upload();
  void make_hidden();
  void add_rows(const bf16* stored, size_t count);
  void show(const LogitsBlock& on_device) const;

  CudaForwardState<T>& state_;
  const CudaHeadBuffers<T>& buffers_;
  const HeadWeights weights_;  // until they are copied
  const LogitsSink sink_;
  const std::vector<int32_t> targets_;
  std::vector<CrossEntropy> states_;  // [tokens]
  Slot slots_[2];
  CudaEvent ready_;  // the buffers are the head's
  size_t slot_ = 0;
  uint64_t first_ = 0;  // row of the vocabulary where the slot begins
  uint64_t held_ = 0;   // bytes in the slot
};

}  // namespace nibblecast
