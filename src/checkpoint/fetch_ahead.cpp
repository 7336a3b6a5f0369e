#include "checkpoint/fetch_ahead.h"

#include <algorithm>

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

std::vector<Range> ranges_of(std::vector<TensorPart> parts) {
  std::ranges::sort(parts, {}, [](const TensorPart& part) {
    return std::pair(part.tensor->shard, part.tensor->offset + part.begin);
  });
  std::vector<Range> ranges;
  for (const TensorPart& part : parts) {
    const uint64_t begin = part.tensor->offset + part.begin, end = begin + part.size_bytes;
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

void fetch_ahead(const Checkpoint& source, std::vector<TensorPart> parts) {
  if (!is_address(source.folder())) return;
  const std::vector<Range> ranges = ranges_of(std::move(parts));
  run_on_threads(ranges.size(), kThreads, [&](size_t index) {
    const Range& range = ranges[index];
    const auto file = source.files().open(source.folder() / source.shards()[range.shard].name, Access::kRead);
    std::vector<std::byte> bytes(range.end - range.begin);
    if (file->is_remote()) file->read(range.begin, bytes);
  });
}

}  // namespace nibblecast
