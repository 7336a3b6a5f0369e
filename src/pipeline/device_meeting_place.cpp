#include "base/cuda.h"
#include "ops/error_sums_cuda.h"
#include "ops/logits_divergence_cuda.h"
#include "pipeline/meeting_place.h"

namespace nibblecast {
namespace {

class DeviceMeetingPlace final : public MeetingPlace {
 public:
  std::shared_ptr<std::byte> allocate(size_t size_bytes) override {
    const auto buffer = std::make_shared<DeviceBuffer>(size_bytes);
    return {buffer, buffer->data()};
  }
  void read(std::span<std::byte> to_host, const std::byte* from) override {
    on(nullptr, [&](CudaStream& queue) { copy_async(queue, to_host.data(), from, to_host.size()); });
    own_.synchronize();
  }
  void write(std::byte* to, std::span<const std::byte> from_host) override {
    on(nullptr, [&](CudaStream& queue) { copy_async(queue, to, from_host.data(), from_host.size()); });
    own_.synchronize();
  }
  size_t stream_bytes() const override { return kDeviceStreamBytes; }

  void keep(const void* values, size_t stride_bytes, size_t row_bytes, size_t rows, CudaStream* queue,
            std::byte* to) override {
    on(queue, [&](CudaStream& stream) {
      copy_rows_async(stream, to, row_bytes, values, stride_bytes, row_bytes, rows);
    });
  }
  void token_errors(const std::byte* a, const ShownValues& b, size_t tokens, size_t width,
                    ErrorSums* sums) override {
    on(b.queue, [&](CudaStream& stream) {
      if (b.b16 != nullptr)
        token_errors_cuda(stream, reinterpret_cast<const bf16*>(a), b.b16, tokens, width, sums);
      else
        token_errors_cuda(stream, reinterpret_cast<const float*>(a), b.f32, tokens, width, sums);
    });
  }
  void add_logits(const float* a, const LogitsBlock& b, LogitsDivergence* states) override {
    on(b.queue, [&](CudaStream& stream) {
      add_logits_pairs_cuda(stream, a, b.values, b.stride, b.tokens, b.count, b.first, states);
    });
  }

 private:
  // After the call before this one, whatever its queue was.
  template <class F>
  void on(CudaStream* queue, const F& f) {
    CudaStream& stream = queue != nullptr ? *queue : own_;
    stream.wait(last_);
    f(stream);
    last_.record(stream);
  }

  CudaStream own_;
  CudaEvent last_;
};

}  // namespace

std::unique_ptr<MeetingPlace> make_device_meeting_place(int ordinal) {
  use_cuda_device(ordinal);
  return std::make_unique<DeviceMeetingPlace>();
}

}  // namespace nibblecast
