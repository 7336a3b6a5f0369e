#include "remote/held_ranges.h"

#include <gtest/gtest.h>

#include <random>

namespace nibblecast::testing {
namespace {

std::byte content(uint64_t at) { return static_cast<std::byte>(at * 31 % 251); }

TEST(HeldRanges, AnyReadsGiveTheBytesAndFetchEachOnce) {
  constexpr uint64_t kBytes = 500;
  std::mt19937 random(1);
  for (int round = 0; round < 50; ++round) {
    std::atomic<int64_t> room = 10'000;
    {
      HeldRanges held(room);
      std::vector<int> fetched(kBytes);
      for (int read = 0; read < 40; ++read) {
        const uint64_t begin = random() % kBytes, size = random() % (kBytes - begin) + 1;
        std::vector<std::byte> bytes(size);
        held.read(begin, bytes, true, [&](uint64_t offset, std::span<std::byte> to) {
          for (size_t at = 0; at < to.size(); ++at) to[at] = content(offset + at), ++fetched[offset + at];
        });
        for (size_t at = 0; at < size; ++at) ASSERT_EQ(bytes[at], content(begin + at));
      }
      for (const int count : fetched) EXPECT_LE(count, 1);
    }
    EXPECT_EQ(room, 10'000);
  }
}

TEST(HeldRanges, NothingIsHeldBeyondTheRoom) {
  std::atomic<int64_t> room = 100;
  HeldRanges held(room);
  std::vector<std::byte> bytes(80);
  size_t fetched = 0;
  const auto fetch = [&](uint64_t, std::span<std::byte> to) { fetched += to.size(); };
  for (int time = 0; time < 2; ++time) {
    held.read(0, bytes, true, fetch);
    held.read(80, bytes, true, fetch);
    held.read(200, std::span(bytes).first(20), false, fetch);
  }
  EXPECT_EQ(fetched, 80u + 2 * 80 + 2 * 20);
  EXPECT_EQ(room, 20);
}

}  // namespace
}  // namespace nibblecast::testing
