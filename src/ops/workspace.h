// ops/workspace.h - memory that is written before it is read, kept from one use to the next.
#pragma once

#include <cstddef>

#include "base/buffer.h"

namespace nibblecast {

template <class T>
class Workspace {
 public:
  // `count` elements, aligned to a page. What was there before is lost if there were fewer.
  T* take(size_t count) {
    if (buffer_.size() < count * sizeof(T)) {
      buffer_ = Buffer();  // first, so that only one of them exists
      buffer_ = Buffer(count * sizeof(T));
    }
    return data();
  }
  T* data() const { return reinterpret_cast<T*>(buffer_.data()); }

 private:
  Buffer buffer_;
};

}  // namespace nibblecast
