#include "pipeline/extents.h"

#include <algorithm>
#include <numeric>

namespace nibblecast {

MergedRanges merge_ranges(std::span<const FileRange> ranges) {
  std::vector<size_t> order(ranges.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::pair(ranges[a].file, ranges[a].begin) < std::pair(ranges[b].file, ranges[b].begin);
  });
  MergedRanges merged;
  merged.places.resize(ranges.size());
  for (const size_t index : order) {
    const FileRange& range = ranges[index];
    const bool touches = !merged.ranges.empty() && merged.ranges.back().file == range.file &&
                         merged.ranges.back().begin + merged.ranges.back().size_bytes == range.begin;
    if (!touches) merged.ranges.push_back({range.file, range.begin, 0});
    merged.places[index] = {merged.ranges.size() - 1, merged.ranges.back().size_bytes};
    merged.ranges.back().size_bytes += range.size_bytes;
  }
  return merged;
}

}  // namespace nibblecast
