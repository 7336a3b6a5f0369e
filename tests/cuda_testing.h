// tests/cuda_testing.h - what tests of code on a CUDA device share. They carry the label gpu.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "base/cuda.h"
#include "base/cuda_devices.h"

namespace nibblecast::testing {

template <class T>
DeviceArray<T> uploaded(const std::vector<T>& values) {
  return to_device(std::span<const T>(values));
}

template <class T>
std::vector<T> downloaded(const DeviceArray<T>& array) {
  std::vector<T> values(array.size());
  from_device(array, std::span<T>(values));
  return values;
}

// Every byte 0xcd: what was not written is seen.
template <class T>
DeviceArray<T> poisoned(size_t count) {
  DeviceArray<T> array(count);
  CudaStream stream;
  fill_async(stream, array.data(), 0xcd, count * sizeof(T));
  stream.synchronize();
  return array;
}

}  // namespace nibblecast::testing

// Skips the test, saying why, where no device can be used.
#define SKIP_WITHOUT_CUDA()                                                         \
  if (const auto found = ::nibblecast::find_cuda_devices(); found.usable.empty()) { \
    GTEST_SKIP() << found.absence;                                                  \
  } else {                                                                          \
    ::nibblecast::use_cuda_device(found.usable[0].ordinal);                         \
  }                                                                                 \
  static_assert(true, "takes the semicolon")
