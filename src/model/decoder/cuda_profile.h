// model/decoder/cuda_profile.h - what a CUDA device did, in seconds of its own clock. Internal to
// model/decoder/*cuda*.cpp.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/cuda.h"
#include "base/cuda_clock.h"
#include "model/forward_pass.h"

namespace nibblecast {

class CudaProfile {
 public:
  enum Part { kDequantize, kProducts, kAttention, kNorms, kMoves, kHead, kCount };

  // `parts`: time them, too.
  explicit CudaProfile(bool parts) : parts_(parts) {}

  template <class F>
  void part(Part part, CudaStreamHandle stream, const F& f) {
    if (parts_)
      clocks_[part].time(stream, f);
    else
      f();
  }
  template <class F>
  void compute(CudaStreamHandle stream, const F& f) {
    compute_.time(stream, f);
  }
  // A copy to the device.
  void send(CudaStreamHandle stream, std::byte* to, const std::byte* from, uint64_t size_bytes) {
    copies_.time(stream, [&] { copy_async(stream, to, from, size_bytes); });
    use_.uploaded_bytes += size_bytes;
  }

  // Adds what ended since the last call.
  void take() {
    constexpr const char* kNames[] = {"dequantize",     "products",       "attention core",
                                      "norms and RoPE", "route and move", "head"};
    use_.upload_seconds += copies_.take_seconds();
    use_.compute_seconds += compute_.take_seconds();
    if (!parts_) return;
    for (size_t part = 0; part < clocks_.size(); ++part)
      use_.parts[kNames[part]] += clocks_[part].take_seconds();
  }
  const DeviceUse& use() const { return use_; }

 private:
  const bool parts_;
  std::array<CudaClock, kCount> clocks_;
  CudaClock copies_, compute_;
  DeviceUse use_;
};

}  // namespace nibblecast
