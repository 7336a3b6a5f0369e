#include "cli/text.h"

#include <gtest/gtest.h>

namespace nibblecast {
namespace {

TEST(Text, GroupsDigits) {
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1000), "1,000");
  EXPECT_EQ(grouped(864704792696), "864,704,792,696");
}

TEST(Text, CountsWithTheirWord) {
  EXPECT_EQ(count_text(1, "problem"), "1 problem");
  EXPECT_EQ(count_text(0, "problem"), "0 problems");
  EXPECT_EQ(count_text(1024, "row"), "1,024 rows");
}

TEST(Text, Sizes) {
  EXPECT_EQ(size_text(512), "512 bytes");
  EXPECT_EQ(size_text(1536), "1.5 KiB");
  EXPECT_EQ(size_text(864704792696), "805.3 GiB");
}

TEST(Text, Durations) {
  EXPECT_EQ(duration_text(0.418), "0.42 s");
  EXPECT_EQ(duration_text(12.4), "12 s");
  EXPECT_EQ(duration_text(843), "14 min 3 s");
  EXPECT_EQ(duration_text(3600 * 3 + 60 * 12), "3 h 12 min");
  EXPECT_EQ(duration_text(-1), "0 s");
}

TEST(Text, Lists) {
  EXPECT_EQ(list_text({}, 3), "");
  EXPECT_EQ(list_text({4}, 3), "4");
  EXPECT_EQ(list_text({1, 2, 3, 7, 9, 10}, 3), "1-3, 7, 9-10");
  EXPECT_EQ(list_text({1, 3, 5, 7}, 2), "1, 3 and 2 more");
}

TEST(Text, ParsesSizes) {
  EXPECT_EQ(parse_size("4096"), 4096u);
  EXPECT_EQ(parse_size("900M"), 900u << 20);
  EXPECT_EQ(parse_size("1GiB"), 1u << 30);
  EXPECT_EQ(parse_size("4g"), uint64_t{4} << 30);
  EXPECT_EQ(parse_size("1.5K"), 1536u);
  EXPECT_EQ(parse_size("2KB"), 2000u);
  for (const char* wrong :
       {"", "0", "-1", "M", "1X", "1GG", "nan", "inf", "1e3", "99999999T", "4 G", "0.1"}) {
    EXPECT_EQ(parse_size(wrong), std::nullopt) << wrong;
  }
}

TEST(Text, ParsesNumbers) {
  EXPECT_EQ(parse_positive("128"), 128u);
  EXPECT_EQ(parse_number("0"), 0u);
  for (const char* wrong :
       {"", "0", "-1", "+1", "1.0", "0x10", "12a", " 1", "9223372036854775808", "99999999999999999999"}) {
    EXPECT_EQ(parse_positive(wrong), std::nullopt) << wrong;
  }
}

}  // namespace
}  // namespace nibblecast
