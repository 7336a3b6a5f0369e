// base/buffer.h - page-aligned memory for large and direct I/O. Move-only; contents start undefined.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace nibblecast {

class Buffer {
 public:
  Buffer() = default;
  // Aligned to kDirectAlignment. Error kRefused if the system has no such memory.
  explicit Buffer(size_t size_bytes);
  // Takes over memory that `release` gives back.
  using Release = void (*)(std::byte*);
  Buffer(std::byte* data, size_t size_bytes, Release release)
      : data_(data), size_(size_bytes), release_(release) {}
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        release_(other.release_) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(release_, other.release_);
    return *this;
  }
  ~Buffer();

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  std::span<std::byte> bytes() const { return {data_, size_}; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  Release release_ = nullptr;  // null: the C library's
};

// Rounding to a multiple; `multiple` is a power of two.
constexpr uint64_t round_down(uint64_t value, uint64_t multiple) { return value & ~(multiple - 1); }
constexpr uint64_t round_up(uint64_t value, uint64_t multiple) {
  return round_down(value + multiple - 1, multiple);
}

}  // namespace nibblecast
