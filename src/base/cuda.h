// base/cuda.h - owners of what a CUDA device lends, and its errors. Only in builds with CUDA.
//
// No CUDA header is needed to include this one. Calls work on the device that use_cuda_device() chose for the
// calling thread. A call that fails throws Error: kRefused where memory is short, kDevice for all else, with
// the call's name and CUDA's words for it. Work on a stream is asynchronous: its errors appear at a later
// call, at the latest at synchronize().
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "base/buffer.h"

struct CUstream_st;  // cudaStream_t is a pointer to it
struct CUevent_st;   // cudaEvent_t

namespace nibblecast {

using CudaStreamHandle = CUstream_st*;

// `status` is a cudaError_t; `call` names what returned it.
void check_cuda(int status, const char* call);
// After a kernel's launch: whether it could be launched.
void check_cuda_launch(const char* kernel);

// For the calling thread, from now on.
void use_cuda_device(int ordinal);
// "sm_90 NVIDIA H100 80GB HBM3": of the device in use; what products' rounding may depend on.
std::string cuda_device_text();

class CudaEvent {
 public:
  enum class Timing { kOff, kOn };
  explicit CudaEvent(Timing timing = Timing::kOff);
  CudaEvent(CudaEvent&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  CudaEvent& operator=(CudaEvent&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~CudaEvent();

  void record(CudaStreamHandle stream);
  bool done() const;         // everything before the last record() has happened; true if there was none
  void synchronize() const;  // waits until done()
  // Between two recorded events with timing that are done.
  double seconds_since(const CudaEvent& start) const;
  CUevent_st* get() const { return event_; }

 private:
  CUevent_st* event_ = nullptr;
};

class CudaStream {
 public:
  CudaStream();
  CudaStream(CudaStream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  CudaStream& operator=(CudaStream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~CudaStream();

  CudaStreamHandle get() const { return stream_; }
  operator CudaStreamHandle() const { return stream_; }  // NOLINT: a stream is what kernels are launched on
  void wait(const CudaEvent& event);  // what comes after waits for what was before event.record()
  void synchronize() const;

 private:
  CudaStreamHandle stream_ = nullptr;
};

// Device memory; contents start undefined. Freeing waits for all work on the device.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(size_t size_bytes);
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~DeviceBuffer();

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// An array in device memory.
template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  explicit DeviceArray(size_t count) : buffer_(count * sizeof(T)), count_(count) {}
  T* data() const { return reinterpret_cast<T*>(buffer_.data()); }
  size_t size() const { return count_; }

 private:
  DeviceBuffer buffer_;
  size_t count_ = 0;
};

// Page-aligned host memory that the device reads and writes directly, at the bus's full rate.
Buffer pinned_buffer(size_t size_bytes);

// Between host and device, or on either, in the stream's order. Host memory must stay until the copy is done;
// if it is not pinned, the call may return only then.
void copy_async(CudaStreamHandle stream, void* to, const void* from, size_t size_bytes);
// `rows` of `row_bytes`, whose beginnings lie so many bytes apart.
void copy_rows_async(CudaStreamHandle stream, void* to, size_t to_stride, const void* from,
                     size_t from_stride, size_t row_bytes, size_t rows);
void fill_async(CudaStreamHandle stream, void* to, uint8_t byte, size_t size_bytes);

// A host array to device memory and back; waits.
template <class T>
DeviceArray<T> to_device(std::span<const T> values) {
  DeviceArray<T> array(values.size());
  CudaStream stream;
  copy_async(stream, array.data(), values.data(), values.size_bytes());
  stream.synchronize();
  return array;
}
template <class T>
void from_device(const DeviceArray<T>& array, std::span<T> values) {
  CudaStream stream;
  copy_async(stream, values.data(), array.data(), values.size_bytes());
  stream.synchronize();
}

}  // namespace nibblecast
