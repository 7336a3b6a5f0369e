#include "pipeline/line_probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

#include "base/threads.h"
#include "pipeline/reader.h"

namespace nibblecast {

std::optional<double> probe_line(const Checkpoint& source) {
  constexpr uint64_t kRequestBytes = 1 << 20, kMostBytes = 64 << 20;
  constexpr auto kMostTime = std::chrono::seconds(2);
  const auto largest = std::ranges::max_element(source.shards(), {}, &Shard::size_bytes);
  if (largest == source.shards().end()) return std::nullopt;
  const auto file = source.files().open(source.folder() / largest->name, Access::kReadDirect);
  if (!file->is_remote()) return std::nullopt;
  const uint64_t end = std::min(largest->size_bytes, largest->data_offset + kMostBytes);
  std::atomic<uint64_t> next = largest->data_offset, done = 0;
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::steady_clock::now() - start; };
  const auto read = [&] {
    std::vector<std::byte> bytes(kRequestBytes);
    try {
      for (uint64_t at; elapsed() < kMostTime && (at = next.fetch_add(kRequestBytes)) < end;) {
        const std::span piece = std::span(bytes).first(std::min(kRequestBytes, end - at));
        file->read(at, piece);
        done += piece.size();
      }
    } catch (const Error&) {  // no estimate is no reason not to run
    }
  };
  run_on_threads(kRemoteThreads, kRemoteThreads, [&](size_t) { read(); });
  const double seconds = std::chrono::duration<double>(elapsed()).count();
  return done > 0 && seconds > 0 ? std::optional(static_cast<double>(done) / seconds) : std::nullopt;
}

}  // namespace nibblecast
