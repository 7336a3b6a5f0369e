// tests/checkpoint/memory_file.h - a File whose bytes are a string in memory, read-only.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>

#include "base/file.h"

namespace nibblecast::testing {

class MemoryFile : public File {
 public:
  // `size_bytes`: what size() claims; beyond the content the file reads as empty.
  MemoryFile(std::string name, std::string_view content, uint64_t size_bytes)
      : File(std::move(name)), content_(content), size_(size_bytes) {}
  MemoryFile(std::string name, std::string_view content)
      : MemoryFile(std::move(name), content, content.size()) {}

  size_t read_some(uint64_t offset, std::span<std::byte> to) override {
    if (offset >= content_.size()) return 0;
    const size_t count = std::min<size_t>(to.size(), content_.size() - offset);
    std::memcpy(to.data(), content_.data() + offset, count);
    return count;
  }
  size_t write_some(uint64_t, std::span<const std::byte>) override { return 0; }
  uint64_t size() override { return size_; }
  void set_size(uint64_t) override {}
  void sync() override {}
  void close() override {}

 private:
  std::string content_;
  uint64_t size_;
};

}  // namespace nibblecast::testing
