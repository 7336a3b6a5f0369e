// pipeline/meeting_place.h - memory and arithmetic where forward passes compute: what a source's values wait
// in for a candidate's, and what they are held against each other with there.
//
// Calls happen one after the other, whatever the queues of the values that are given. Not thread-safe.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "model/forward_pass.h"
#include "ops/error_sums.h"
#include "ops/logits_divergence.h"

namespace nibblecast {

class MeetingPlace {
 public:
  // Of a pass's streams, those that are looked at at once.
  static constexpr size_t kHostStreamBytes = size_t{4} << 20, kDeviceStreamBytes = size_t{64} << 20;

  virtual ~MeetingPlace() = default;

  // Memory of the place, which is freed with the last owner; contents start undefined. kRefused where it is
  // short.
  virtual std::shared_ptr<std::byte> allocate(size_t size_bytes) = 0;
  virtual void read(std::span<std::byte> to_host, const std::byte* from) = 0;
  virtual void write(std::byte* to, std::span<const std::byte> from_host) = 0;
  virtual size_t stream_bytes() const = 0;

  // `rows` of `row_bytes`, `stride_bytes` apart, to rows without gaps.
  virtual void keep(const void* values, size_t stride_bytes, size_t row_bytes, size_t rows, CudaStream* queue,
                    std::byte* to) = 0;
  // a: as `b`, of this place; sums [tokens].
  virtual void token_errors(const std::byte* a, const ShownValues& b, size_t tokens, size_t width,
                            ErrorSums* sums) = 0;
  // a [b.tokens, b.count] of this place; states [b.tokens].
  virtual void add_logits(const float* a, const LogitsBlock& b, LogitsDivergence* states) = 0;
};

// Of passes on `device`.
std::unique_ptr<MeetingPlace> make_meeting_place(const ForwardDevice& device);

// On a CUDA device, which is the calling thread's from then on; builds without CUDA have none (null).
std::unique_ptr<MeetingPlace> make_device_meeting_place(int ordinal);

}  // namespace nibblecast
