// model/decoder/cuda_readback.h - numbers of a CUDA device on their way to the host. Internal to
// model/decoder/*cuda*.cpp.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "base/cuda.h"

namespace nibblecast {

class CudaReadback {
 public:
  explicit CudaReadback(size_t count) : block_(pinned_buffer(count * sizeof(uint32_t))) {}

  // Begins to bring `from` [count] as it is then. The numbers before must have been taken.
  void fetch(CudaStreamHandle stream, const uint32_t* from) {
    copy_async(stream, block_.data(), from, block_.size());
    fetched_.record(stream);
  }
  bool done() const { return fetched_.done(); }
  void wait() const { fetched_.synchronize(); }
  std::vector<uint32_t> take() const {  // waits
    wait();
    std::vector<uint32_t> values(block_.size() / sizeof(uint32_t));
    std::memcpy(values.data(), block_.data(), block_.size());
    return values;
  }

 private:
  Buffer block_;  // pinned
  CudaEvent fetched_;
};

}  // namespace nibblecast
