#include "checkpoint/fetch_ahead.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

#include "base/threads.h"
#include "remote/address.h"

namespace nibblecast {
namespace {

constexpr size_t kThreads = 32;
// Bytes between two parts that are fetched with them: a run wants them anyway.
constexpr uint64_t kGapBytes = 16 << 10;
constexpr uint64_t kMostBytes = 1 << 20;

struct Range {
  uint32_t shard = 0;
  uint64_t begin = 0, end = 0;
};

std::vector<Range> ranges_of(std::vector<TensorBegin> parts) {
  std::ranges::sort(
      parts, {}, [](const TensorBegin& part) { return std::pair(part.tensor->shard, part.tensor->offset); });
  std::vector<Range> ranges;
  for (const TensorBegin& part : parts) {
    const uint64_t begin = part.tensor->offset, end = begin + part.size_bytes;
    Range* const last = ranges.empty() ? nullptr : &ranges.back();
    if (last != nullptr && last->shard == part.tensor->shard && begin <= last->end + kGapBytes &&
        end - last->begin <= kMostBytes)
      last->end = std::max(last->end, end);
    else
      ranges.push_back({part.tensor->shard, begin, end});
  }
  return ranges;
}

}  // namespace

void fetch_ahead(const Checkpoint& source, std::vector<TensorBegin> parts) {
  if (!is_address(source.folder())) return;
  const std::vector<Range> ranges = ranges_of(std::move(parts));
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  std::exception_ptr error;
  const auto work = [&] {
    for (size_t index; (index = next++) < ranges.size();) {
      const Range& range = ranges[index];
      try {
        const auto file =
            source.files().open(source.folder() / source.shards()[range.shard].name, Access::kRead);
        std::vector<std::byte> bytes(range.end - range.begin);
        if (file->is_remote()) file->read(range.begin, bytes);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
        next = ranges.size();
      }
    }
  };
  std::vector<std::thread> threads;
  for (size_t thread = 1; thread < std::min(kThreads, ranges.size()); ++thread)
    threads.push_back(start_thread(work));
  work();
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace nibblecast
