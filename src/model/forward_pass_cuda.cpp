// What model/forward_pass.h says of devices, in builds with CUDA.

#include <cstring>

#include "base/cuda.h"
#include "base/cuda_clock.h"
#include "model/families/deepseek_v4/config.h"
#include "model/families/deepseek_v4/forward_cuda.h"
#include "ops/matmul_cuda.h"

namespace nibblecast {

template <class T>
std::unique_ptr<ForwardPass> make_cuda_forward_pass(const DeepseekV4Config& config,
                                                    std::vector<std::vector<int32_t>> rows,
                                                    const ForwardDevice& device) {
  return std::make_unique<DeepseekV4CudaForward<T>>(config, std::move(rows), device);
}

BufferAllocator read_buffers(const ForwardDevice& device) { return device.cuda ? pinned_buffer : nullptr; }

std::string device_identity(const ForwardDevice& device) {
  if (!device.cuda) return {};
  use_cuda_device(*device.cuda);
  return "cuda " + cuda_device_text() + ", " + CudaProducts().library();
}

// As large as an expert's products; far below a second.
template <class T>
ComputeRates probe_device(const ForwardDevice& device) {
  constexpr size_t kSize = 2048, kRepeats = sizeof(T) == 2 ? 32 : 2;
  use_cuda_device(device.cuda.value());
  CudaStream stream;
  CudaProducts products;
  CudaClock clock;
  const DeviceArray<T> x(kSize * kSize), w(kSize * kSize);
  const DeviceArray<float> y(kSize * kSize);
  const Buffer host = pinned_buffer(x.size() * sizeof(T));
  std::memset(host.data(), 0x3c, host.size());
  const auto copy = [&] {
    for (T* to : {x.data(), w.data()}) copy_async(stream, to, host.data(), host.size());
  };
  const auto multiply = [&] {
    const ProductShape shape{.m = kSize, .n = kSize, .k = kSize, .x_stride = kSize, .y_stride = kSize};
    for (size_t i = 0; i < kRepeats; ++i) products.multiply(stream, shape, x.data(), w.data(), y.data());
  };
  const auto seconds = [&](const auto& f) {
    f();  // loads code, wakes the device
    clock.time(stream, f);
    stream.synchronize();
    return clock.take_seconds();
  };
  const double copying = seconds(copy), multiplying = seconds(multiply);
  return {.flops_per_second = 2.0 * kRepeats * kSize * kSize * kSize / multiplying,
          .bus_bytes_per_second = 2.0 * static_cast<double>(host.size()) / copying};
}
template ComputeRates probe_device<float>(const ForwardDevice&);
template ComputeRates probe_device<bf16>(const ForwardDevice&);

template std::unique_ptr<ForwardPass> make_cuda_forward_pass<float>(const DeepseekV4Config&,
                                                                    std::vector<std::vector<int32_t>>,
                                                                    const ForwardDevice&);
template std::unique_ptr<ForwardPass> make_cuda_forward_pass<bf16>(const DeepseekV4Config&,
                                                                   std::vector<std::vector<int32_t>>,
                                                                   const ForwardDevice&);

}  // namespace nibblecast
