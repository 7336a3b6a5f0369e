#include <gtest/gtest.h>

#include <cstdlib>

#include "cli/progress_line.h"
#include "run_cli.h"

namespace nibblecast {
namespace {

constexpr std::time_t kNow = 1'700'000'000;  // 2023-11-14 22:13:20 UTC

ProgressLine line() {
  return {.title = "layer 14 of 61",
          .detail = "attention, row 3 of 8",
          .seconds = 300,
          .seconds_left = 1200,
          .bytes_done = uint64_t{12} << 30,
          .bytes = uint64_t{48} << 30};
}

class ProgressText : public ::testing::Test {
 protected:
  void SetUp() override {
    ::setenv("TZ", "UTC", 1);
    ::tzset();
  }
};

TEST_F(ProgressText, SaysWhereAndHowLong) {
  EXPECT_EQ(
      progress_text(line(), kNow, 0),
      "layer 14 of 61, attention, row 3 of 8: 20 %, 20 min 0 s left, ends at 22:33, 12.0 GiB of 48.0 GiB, "
      "42.9 MB/s");
}

TEST_F(ProgressText, AnEndOnAnotherDayHasItsDay) {
  ProgressLine later = line();
  later.seconds_left = 3 * 3600;
  EXPECT_NE(progress_text(later, kNow, 0).find("3 h 0 min left, ends Wed 15 Nov 01:13"), std::string::npos);
  later.seconds_left = 599;
  EXPECT_EQ(progress_text(later, kNow, 0).find("ends"), std::string::npos);
}

TEST_F(ProgressText, WhatSaysLeastGoesFirstAndTheTimeStays) {
  EXPECT_EQ(
      progress_text(line(), kNow, 100),
      "layer 14 of 61, attention, row 3 of 8: 20 %, 20 min 0 s left, ends at 22:33, 12.0 GiB of 48.0 GiB");
  EXPECT_EQ(progress_text(line(), kNow, 79),
            "layer 14 of 61, attention, row 3 of 8: 20 %, 20 min 0 s left, ends at 22:33");
  EXPECT_EQ(progress_text(line(), kNow, 60), "layer 14 of 61, attention, row 3 of 8: 20 %, 20 min 0 s left");
  EXPECT_EQ(progress_text(line(), kNow, 49), "layer 14 of 61: 20 %, 20 min 0 s left");
  EXPECT_EQ(progress_text(line(), kNow, 34), "layer 14 of 61: 20 min 0 s left");
  EXPECT_EQ(progress_text(line(), kNow, 24), "layer …: 20 min 0 s left");
  EXPECT_EQ(progress_text(line(), kNow, 16), "20 min 0 s left");
  for (size_t columns = 1; columns < 120; ++columns)
    EXPECT_LE(text_columns(progress_text(line(), kNow, columns)), columns);
}

TEST_F(ProgressText, ForPrograms) {
  EXPECT_EQ(progress_json({.title = "layer 1 of 2", .detail = "", .seconds = 1.5}),
            R"({"progress":{"bytes":null,"bytes_done":0,"detail":"","seconds":1.5,"seconds_left":null,)"
            R"("title":"layer 1 of 2"}})");
  ProgressLine torn = line();
  torn.detail = "\xff";  // a path need not be UTF-8
  EXPECT_NE(progress_json(torn).find(R"("bytes":51539607552,"bytes_done":12884901888)"), std::string::npos);
}

TEST_F(ProgressText, CountsColumnsNotBytes) {
  EXPECT_EQ(text_columns("Ünïcode"), 7u);
  EXPECT_EQ(text_columns("模型"), 4u);
  EXPECT_EQ(text_columns("a\xff"
                         "b"),
            3u);
  ProgressLine named{.title = "模型模型模型", .detail = "", .seconds_left = 5};
  EXPECT_EQ(progress_text(named, kNow, 20), "模型模型…: 5 s left");
}

TEST_F(ProgressText, WithoutAnEstimateBytesSayHowFar) {
  ProgressLine begun{.title = "reading", .detail = "", .bytes_done = 512, .bytes = 2048};
  EXPECT_EQ(progress_text(begun, kNow, 0), "reading: 25 %, 512 bytes of 2.0 KiB");
  EXPECT_EQ(progress_text({.title = "planning", .detail = ""}, kNow, 0), "planning");
}

TEST(Progress, ForProgramsIsJsonOrRefused) {
  const testing::TemporaryFolder folder;
  ::setenv("NIBBLECAST_PROGRESS", "xml", 1);
  const testing::CliResult result = testing::run_cli({"synth", "v4-tiny", (folder.path() / "tiny").string()});
  ::unsetenv("NIBBLECAST_PROGRESS");
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.err,
            "nibblecast: error: NIBBLECAST_PROGRESS: unknown value 'xml' (expected json, or nothing)\n");
}

}  // namespace
}  // namespace nibblecast
