#include "remote/held_ranges.h"

#include <algorithm>
#include <iterator>

namespace nibblecast {

HeldRanges::~HeldRanges() {
  for (const auto& [offset, bytes] : pieces_) room_ += static_cast<int64_t>(bytes.size());
}

std::vector<HeldRanges::Gap> HeldRanges::copy_held(uint64_t offset, std::span<std::byte> to) {
  std::vector<Gap> gaps;
  const std::lock_guard lock(mutex_);
  auto piece = pieces_.upper_bound(offset);
  if (piece != pieces_.begin()) --piece;
  while (!to.empty()) {
    while (piece != pieces_.end() && piece->first + piece->second.size() <= offset) ++piece;
    const uint64_t next = piece == pieces_.end() ? offset + to.size() : piece->first;
    if (next > offset) {
      const size_t missing = std::min<uint64_t>(next - offset, to.size());
      gaps.push_back({offset, to.first(missing)});
      offset += missing;
      to = to.subspan(missing);
      continue;
    }
    const std::span held = std::span(piece->second).subspan(offset - piece->first);
    const size_t size = std::min(held.size(), to.size());
    std::ranges::copy(held.first(size), to.begin());
    offset += size;
    to = to.subspan(size);
  }
  return gaps;
}

void HeldRanges::read(uint64_t offset, std::span<std::byte> to, bool keep,
                      const std::function<void(uint64_t, std::span<std::byte>)>& fetch) {
  for (const Gap& gap : copy_held(offset, to)) {
    fetch(gap.offset, gap.to);
    if (keep) add(gap.offset, gap.to);
  }
}

void HeldRanges::add(uint64_t offset, std::span<const std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  const auto next = pieces_.lower_bound(offset);
  const bool overlaps =
      (next != pieces_.end() && next->first < offset + bytes.size()) ||
      (next != pieces_.begin() && std::prev(next)->first + std::prev(next)->second.size() > offset);
  const auto size = static_cast<int64_t>(bytes.size());
  if (bytes.empty() || overlaps || room_.fetch_sub(size) < size) {
    if (!bytes.empty() && !overlaps) room_ += size;
    return;
  }
  pieces_.emplace_hint(next, offset, std::vector(bytes.begin(), bytes.end()));
}

}  // namespace nibblecast
