#include "remote/range_set.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace nibblecast {
namespace {

TEST(RangeSet, IsAsASetOfBytes) {
  constexpr uint64_t kBytes = 60;
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    RangeSet ranges;
    std::vector<bool> there(kBytes);
    for (int step = 0; step < 8; ++step) {
      const uint64_t begin = random() % kBytes, end = begin + 1 + random() % (kBytes - begin);
      ranges.add(begin, end);
      std::fill(there.begin() + static_cast<ptrdiff_t>(begin), there.begin() + static_cast<ptrdiff_t>(end),
                true);
      ASSERT_EQ(ranges.bytes(), static_cast<uint64_t>(std::count(there.begin(), there.end(), true)));
      const uint64_t from = random() % kBytes, to = from + 1 + random() % (kBytes - from);
      const bool all =
          std::find(there.begin() + static_cast<ptrdiff_t>(from), there.begin() + static_cast<ptrdiff_t>(to),
                    false) == there.begin() + static_cast<ptrdiff_t>(to);
      ASSERT_EQ(ranges.holds(from, to), all);
    }
  }
}

}  // namespace
}  // namespace nibblecast
