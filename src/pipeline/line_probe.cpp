#include "pipeline/line_probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <utility>
#include <vector>

#include "base/threads.h"
#include "pipeline/reader.h"

namespace nibblecast {
namespace {

using Clock = std::chrono::steady_clock;

// Pieces that came, from many threads.
class Arrivals {
 public:
  void add(uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    bytes_ += bytes;
    last_ = Clock::now();
    if (++pieces_ == kRemoteThreads) settled_ = {bytes_, last_};
  }

  // Without as many pieces as there are connections, in which these were made and found their speed; where no
  // more came than twice that, of all.
  std::optional<double> rate(Clock::time_point start) const {
    const bool is_long = pieces_ >= 2 * kRemoteThreads;
    const uint64_t bytes = bytes_ - (is_long ? settled_.first : 0);
    const double seconds = std::chrono::duration<double>(last_ - (is_long ? settled_.second : start)).count();
    return bytes > 0 && seconds > 0 ? std::optional(static_cast<double>(bytes) / seconds) : std::nullopt;
  }

 private:
  std::mutex mutex_;
  uint64_t bytes_ = 0;
  size_t pieces_ = 0;
  Clock::time_point last_;
  std::pair<uint64_t, Clock::time_point> settled_;
};

}  // namespace

std::optional<double> probe_line(const Checkpoint& source) {
  constexpr uint64_t kRequestBytes = 1 << 20, kMostBytes = 64 << 20;
  constexpr auto kMostTime = std::chrono::seconds(2);
  const auto largest = std::ranges::max_element(source.shards(), {}, &Shard::size_bytes);
  if (largest == source.shards().end()) return std::nullopt;
  const auto file = source.files().open(source.folder() / largest->name, Access::kReadDirect);
  if (!file->is_remote()) return std::nullopt;
  const uint64_t end = std::min(largest->size_bytes, largest->data_offset + kMostBytes);
  std::atomic<uint64_t> next = largest->data_offset;
  Arrivals arrivals;
  const auto start = Clock::now();
  const auto read = [&] {
    std::vector<std::byte> bytes(kRequestBytes);
    try {
      for (uint64_t at; Clock::now() - start < kMostTime && (at = next.fetch_add(kRequestBytes)) < end;) {
        const std::span piece = std::span(bytes).first(std::min(kRequestBytes, end - at));
        file->read(at, piece);
        arrivals.add(piece.size());
      }
    } catch (const Error&) {  // no estimate is no reason not to run
    }
  };
  run_on_threads(kRemoteThreads, kRemoteThreads, [&](size_t) { read(); });
  return arrivals.rate(start);
}

}  // namespace nibblecast
