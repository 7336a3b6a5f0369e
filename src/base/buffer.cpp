#include "base/buffer.h"

#include <cstdlib>
#include <string>

#include "base/error.h"
#include "base/file.h"

namespace nibblecast {

Buffer::Buffer(size_t size_bytes) : size_(size_bytes) {
  if (size_bytes == 0) return;
  data_ =
      static_cast<std::byte*>(std::aligned_alloc(kDirectAlignment, round_up(size_bytes, kDirectAlignment)));
  if (data_ == nullptr) {
    throw Error(ErrorKind::kRefused, {}, "out of memory allocating " + std::to_string(size_bytes) + " bytes",
                {.hint = "lower --calib-size, or run where there is more memory"});
  }
}

Buffer::~Buffer() {
  if (release_ == nullptr)
    std::free(data_);
  else if (data_ != nullptr)
    release_(data_);
}

}  // namespace nibblecast
