#include "pipeline/meeting_place.h"

#include <cstring>

#include "base/parallel.h"

namespace nibblecast {
namespace {

class HostMeetingPlace final : public MeetingPlace {
 public:
  std::shared_ptr<std::byte> allocate(size_t size_bytes) override {
    const auto buffer = std::make_shared<Buffer>(size_bytes);
    return {buffer, buffer->data()};
  }
  void read(std::span<std::byte> to_host, const std::byte* from) override {
    std::memcpy(to_host.data(), from, to_host.size());
  }
  void write(std::byte* to, std::span<const std::byte> from_host) override {
    std::memcpy(to, from_host.data(), from_host.size());
  }
  size_t stream_bytes() const override { return kHostStreamBytes; }

  void keep(const void* values, size_t stride_bytes, size_t row_bytes, size_t rows, CudaStream*,
            std::byte* to) override {
    parallel_for(rows, [&](size_t row) {
      std::memcpy(to + row * row_bytes, static_cast<const std::byte*>(values) + row * stride_bytes,
                  row_bytes);
    });
  }
  void token_errors(const std::byte* a, const ShownValues& b, size_t tokens, size_t width,
                    ErrorSums* sums) override {
    if (b.b16 != nullptr)
      nibblecast::token_errors(reinterpret_cast<const bf16*>(a), b.b16, tokens, width, sums);
    else
      nibblecast::token_errors(reinterpret_cast<const float*>(a), b.f32, tokens, width, sums);
  }
  void add_logits(const float* a, const LogitsBlock& b, LogitsDivergence* states) override {
    parallel_for(b.tokens, [&](size_t token) {
      add_logits_pair(a + token * b.count, b.values + token * b.stride, b.count, b.first, states[token]);
    });
  }
};

}  // namespace

std::unique_ptr<MeetingPlace> make_meeting_place(const ForwardDevice& device) {
  if (device.cuda) return make_device_meeting_place(*device.cuda);
  return std::make_unique<HostMeetingPlace>();
}

}  // namespace nibblecast
