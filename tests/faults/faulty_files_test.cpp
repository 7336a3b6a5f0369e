#include "faults/faulty_files.h"

#include "faults/memory_files.h"
#include "testing.h"

namespace nibblecast::testing {
namespace {

// Two writes of four bytes, synced, renamed.
void small_job(FileSystem& files) {
  files.create_folders("/d");
  const auto file = files.open("/d/f.partial", Access::kCreate);
  for (uint64_t offset : {0, 4}) file->write(offset, std::as_bytes(std::span("abcd", 4)));
  file->sync();
  file->close();
  files.rename("/d/f.partial", "/d/f");
  files.sync_folder("/d");
}

TEST(FaultyFiles, CountsByKind) {
  MemoryFiles memory;
  FaultyFiles files(memory);
  small_job(files);
  EXPECT_EQ(files.count(), 8u);
  EXPECT_EQ(files.count(Operation::kWrite), 2u);
  EXPECT_EQ(files.count(Operation::kCreate), 1u);
  EXPECT_EQ(files.count(Operation::kOpen), 0u);
  EXPECT_EQ(files.count(Operation::kSyncFolder), 1u);
  EXPECT_FALSE(files.hit());
}

TEST(FaultyFiles, AnErrorHitsTheNthOfItsKind) {
  MemoryFiles memory;
  FaultyFiles files(memory, {Operation::kWrite, 1, Failure::kEio});
  expect_error(
      ErrorKind::kIo, [&] { small_job(files); }, "/d/f.partial", "at byte 4", "Input/output error");
  EXPECT_EQ(files.hit(), "write /d/f.partial at 4");
  EXPECT_EQ(memory.contents("/d").at("f.partial"), "abcdab");
  small_job(files);  // only once
  EXPECT_EQ(memory.contents("/d").at("f"), "abcdabcd");
}

TEST(FaultyFiles, AFullDiskStaysFullForWhatNeedsSpace) {
  MemoryFiles memory;
  FaultyFiles files(memory, {{}, 3, Failure::kEnospc});
  expect_error(
      ErrorKind::kDiskFull, [&] { small_job(files); }, "at byte 4", "No space left");
  expect_error(
      ErrorKind::kDiskFull, [&] { small_job(files); }, "No space left");
  EXPECT_EQ(files.list("/d"), std::vector<std::string>{"f.partial"});
  files.remove("/d/f.partial");
}

TEST(FaultyFiles, ShortTransfersAreFinished) {
  for (const Failure failure : {Failure::kOneByte, Failure::kHalf}) {
    MemoryFiles memory;
    FaultyFiles files(memory, {Operation::kWrite, 0, failure});
    small_job(files);
    EXPECT_EQ(files.count(Operation::kWrite), 3u);
    EXPECT_EQ(memory.contents("/d").at("f"), "abcdabcd");
  }
}

TEST(FaultyFiles, NothingIsDoneAfterACrashOrALoss) {
  MemoryFiles memory;
  FaultyFiles died(memory, {Operation::kSync, 0, Failure::kCrash});
  EXPECT_THROW(small_job(died), ProcessDied);
  EXPECT_THROW(died.status("/d"), ProcessDied);
  FaultyFiles lost(memory, {Operation::kSync, 0, Failure::kVanished});
  expect_error(
      ErrorKind::kIo, [&] { small_job(lost); }, "cannot sync");
  expect_error(
      ErrorKind::kIo, [&] { lost.list("/d"); }, "Input/output error");
}

TEST(FaultyFiles, CopiesAndRemovalsAreLeftHalfDone) {
  MemoryFiles memory;
  small_job(memory);
  FaultyFiles copying(memory, {Operation::kCopy, 0, Failure::kEio});
  expect_error(
      ErrorKind::kIo, [&] { copying.copy("/d/f", "/d/g"); }, "cannot copy");
  EXPECT_EQ(memory.contents("/d").at("g"), "abcd");
  FaultyFiles removing(memory, {Operation::kRemove, 0, Failure::kCrash});
  EXPECT_THROW(removing.remove("/d"), ProcessDied);
  EXPECT_EQ(memory.list("/d"), std::vector<std::string>{"g"});
}

}  // namespace
}  // namespace nibblecast::testing
