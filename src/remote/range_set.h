// remote/range_set.h - which bytes of a file are there.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>

namespace nibblecast {

class RangeSet {
 public:
  // `begin` < `end`; what is there already may be added again.
  void add(uint64_t begin, uint64_t end) {
    auto next = ranges_.upper_bound(begin);
    if (next != ranges_.begin() && std::prev(next)->second >= begin) --next;
    while (next != ranges_.end() && next->first <= end) {
      begin = std::min(begin, next->first);
      end = std::max(end, next->second);
      next = ranges_.erase(next);
    }
    ranges_.emplace(begin, end);
  }
  bool holds(uint64_t begin, uint64_t end) const {
    const auto next = ranges_.upper_bound(begin);
    return next != ranges_.begin() && std::prev(next)->second >= end;
  }
  uint64_t bytes() const {
    uint64_t sum = 0;
    for (const auto& [begin, end] : ranges_) sum += end - begin;
    return sum;
  }

 private:
  std::map<uint64_t, uint64_t> ranges_;  // begin and end; no two touch
};

}  // namespace nibblecast
