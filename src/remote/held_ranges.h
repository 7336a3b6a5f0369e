// remote/held_ranges.h - parts of a file that were fetched once and are wanted again: headers, norm vectors,
// small documents.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <vector>

namespace nibblecast {

// Thread-safe. Two threads that want the same part at once may both fetch it.
class HeldRanges {
 public:
  // `room`: bytes that may still be held, shared with others.
  explicit HeldRanges(std::atomic<int64_t>& room) : room_(room) {}
  ~HeldRanges();

  // Fills `to` with the bytes from `offset` on: what is held is copied, `fetch` fills each gap. With `keep`,
  // what was fetched is held, as far as there is room.
  void read(uint64_t offset, std::span<std::byte> to, bool keep,
            const std::function<void(uint64_t offset, std::span<std::byte> to)>& fetch);
  // Bytes that were fetched by other means.
  void add(uint64_t offset, std::span<const std::byte> bytes);

 private:
  struct Gap {
    uint64_t offset;
    std::span<std::byte> to;
  };
  std::vector<Gap> copy_held(uint64_t offset, std::span<std::byte> to);

  std::atomic<int64_t>& room_;
  std::mutex mutex_;
  std::map<uint64_t, std::vector<std::byte>> pieces_;  // by offset; none overlap
};

}  // namespace nibblecast
