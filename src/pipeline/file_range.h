// pipeline/file_range.h - a range of bytes in one of several files.
#pragma once

#include <cstdint>

#include "base/buffer.h"
#include "base/file.h"

namespace nibblecast {

struct FileRange {
  uint32_t file = 0;  // index into the reader's or writer's files
  uint64_t begin = 0, size_bytes = 0;

  uint64_t end() const { return begin + size_bytes; }
  // Memory for the range that keeps its place within a page, so that whole pages can go directly.
  uint64_t padded_bytes() const {
    return round_up(end(), kDirectAlignment) - round_down(begin, kDirectAlignment);
  }
};

}  // namespace nibblecast
