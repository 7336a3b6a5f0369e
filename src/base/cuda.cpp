#include "base/cuda.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "base/cuda_devices.h"
#include "base/error.h"

namespace nibblecast {
namespace {

cudaError_t status_of(int status) { return static_cast<cudaError_t>(status); }

// Owners' destructors never report: what failed was reported by the call that came first.
void ignore(cudaError_t) {}

constexpr int kLeastMajor = 8;  // the oldest architecture that cmake/cuda.cmake names

CudaDevice describe(int ordinal) {
  cudaDeviceProp properties;
  check_cuda(cudaGetDeviceProperties(&properties, ordinal), "cudaGetDeviceProperties");
  return {.ordinal = ordinal,
          .name = properties.name,
          .major = properties.major,
          .minor = properties.minor,
          .memory_bytes = properties.totalGlobalMem};
}

std::string device_text(const CudaDevice& device) {
  return fmt::format("sm_{}{} {}", device.major, device.minor, device.name);
}

}  // namespace

CudaDevices find_cuda_devices() {
  CudaDevices found;
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    int driver = 0;  // stays 0 where none is installed
    ignore(cudaDriverGetVersion(&driver));
    found.absence = driver == 0 ? std::string("there is no NVIDIA driver")
                                : fmt::format("no CUDA device can be used: {}", cudaGetErrorString(status));
    ignore(cudaGetLastError());
    return found;
  }
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    try {
      const CudaDevice device = describe(ordinal);
      if (device.major >= kLeastMajor) {
        found.usable.push_back(device);
      } else {
        found.absence = fmt::format("{} is older than sm_80", device_text(device));
      }
    } catch (const Error& error) {
      found.absence = error.what();
    }
  }
  if (count == 0) found.absence = "no CUDA device is there";
  return found;
}

void check_cuda(int status, const char* call) {
  if (status_of(status) == cudaSuccess) return;
  ignore(cudaGetLastError());  // else the next launch would report it again
  const bool memory = status_of(status) == cudaErrorMemoryAllocation;
  throw Error(memory ? ErrorKind::kRefused : ErrorKind::kDevice, {},
              fmt::format("the GPU failed: {}: {} ({})", call, cudaGetErrorString(status_of(status)),
                          cudaGetErrorName(status_of(status))),
              {.hint = memory ? "another program may hold its memory: lower --device-memory, or wait for it"
                              : "run the same command again to go on; --device cpu does without the GPU"});
}

void check_cuda_launch(const char* kernel) { check_cuda(cudaGetLastError(), kernel); }

void use_cuda_device(int ordinal) { check_cuda(cudaSetDevice(ordinal), "cudaSetDevice"); }

uint64_t usable_cuda_memory(int ordinal) {
  use_cuda_device(ordinal);
  size_t free = 0, all = 0;
  check_cuda(cudaMemGetInfo(&free, &all), "cudaMemGetInfo");
  return free - free / 32;
}

std::string cuda_device_text() {
  int ordinal = 0;
  check_cuda(cudaGetDevice(&ordinal), "cudaGetDevice");
  return device_text(describe(ordinal));
}

CudaEvent::CudaEvent(Timing timing) {
  check_cuda(
      cudaEventCreateWithFlags(&event_, timing == Timing::kOn ? cudaEventDefault : cudaEventDisableTiming),
      "cudaEventCreate");
}
CudaEvent::~CudaEvent() {
  if (event_ != nullptr) ignore(cudaEventDestroy(event_));
}
void CudaEvent::record(CudaStreamHandle stream) {
  check_cuda(cudaEventRecord(event_, stream), "cudaEventRecord");
}
bool CudaEvent::done() const {
  const cudaError_t status = cudaEventQuery(event_);
  if (status == cudaErrorNotReady) {
    ignore(cudaGetLastError());
    return false;
  }
  check_cuda(status, "cudaEventQuery");
  return true;
}
void CudaEvent::synchronize() const { check_cuda(cudaEventSynchronize(event_), "cudaEventSynchronize"); }
double CudaEvent::seconds_since(const CudaEvent& start) const {
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, start.event_, event_), "cudaEventElapsedTime");
  return milliseconds / 1e3;
}

CudaStream::CudaStream() {
  check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
}
CudaStream::~CudaStream() {
  if (stream_ != nullptr) ignore(cudaStreamDestroy(stream_));
}
void CudaStream::wait(const CudaEvent& event) {
  check_cuda(cudaStreamWaitEvent(stream_, event.get(), 0), "cudaStreamWaitEvent");
}
void CudaStream::synchronize() const { check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

DeviceBuffer::DeviceBuffer(size_t size_bytes) : size_(size_bytes) {
  if (size_bytes == 0) return;
  void* data = nullptr;
  check_cuda(cudaMalloc(&data, size_bytes), fmt::format("cudaMalloc of {} bytes", size_bytes).c_str());
  data_ = static_cast<std::byte*>(data);
}
DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) ignore(cudaFree(data_));
}

Buffer pinned_buffer(size_t size_bytes) {
  if (size_bytes == 0) return {};
  void* data = nullptr;
  check_cuda(cudaHostAlloc(&data, size_bytes, cudaHostAllocPortable),
             fmt::format("cudaHostAlloc of {} bytes", size_bytes).c_str());
  return Buffer(static_cast<std::byte*>(data), size_bytes,
                [](std::byte* memory) { ignore(cudaFreeHost(memory)); });
}

void copy_async(CudaStreamHandle stream, void* to, const void* from, size_t size_bytes) {
  if (size_bytes == 0) return;
  check_cuda(cudaMemcpyAsync(to, from, size_bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
}
void copy_rows_async(CudaStreamHandle stream, void* to, size_t to_stride, const void* from,
                     size_t from_stride, size_t row_bytes, size_t rows) {
  if (row_bytes == 0 || rows == 0) return;
  check_cuda(cudaMemcpy2DAsync(to, to_stride, from, from_stride, row_bytes, rows, cudaMemcpyDefault, stream),
             "cudaMemcpy2DAsync");
}
void fill_async(CudaStreamHandle stream, void* to, uint8_t byte, size_t size_bytes) {
  if (size_bytes == 0) return;
  check_cuda(cudaMemsetAsync(to, byte, size_bytes, stream), "cudaMemsetAsync");
}

}  // namespace nibblecast
