// Reader, Writer and merge_ranges: every alignment, small memory, failing files.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "pipeline/extents.h"
#include "pipeline/reader.h"
#include "pipeline/writer.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;

std::vector<std::byte> pattern(size_t size) {
  std::vector<std::byte> bytes(size);
  std::mt19937 random(7);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

TEST(Reader, GivesEveryRangeInOrderWhateverTheMemory) {
  TemporaryFolder folder;
  const std::vector<std::byte> content = pattern(300'001);
  const auto out = system_files().open(folder.path() / "f", Access::kCreate);
  out->write(0, content);
  out->close();
  std::vector<ReadUnit> units = {
      {{0, 0, 1}, {0, 300'000, 1}}, {{0, 4096, 8192}}, {{0, 4095, 2}, {0, 5, 100'000}},
      {{0, 299'000, 1001}},         {{0, 10, 0}},      {{0, 0, 300'001}}};
  for (const uint64_t memory : {uint64_t{0}, uint64_t{10'000}, uint64_t{10'000'000}}) {
    std::vector<std::unique_ptr<File>> files;
    files.push_back(system_files().open(folder.path() / "f", Access::kReadDirect));
    Reader reader(std::move(files), units, memory);
    for (const ReadUnit& unit : units) {
      const Reader::Loaded loaded = reader.next();
      for (size_t range = 0; range < unit.size(); ++range) {
        ASSERT_EQ(loaded[range].size(), unit[range].size_bytes);
        EXPECT_EQ(
            std::memcmp(loaded[range].data(), content.data() + unit[range].begin, unit[range].size_bytes), 0);
      }
    }
  }
}

TEST(Writer, PutsSegmentsAtAnyOffsetInAnyOrder) {
  TemporaryFolder folder;
  const std::vector<std::byte> content = pattern(1'000'003);
  std::vector<uint64_t> cuts = {0, 1, 4095, 4096, 4097, 12'288, 20'000, 20'001, 500'000, 503'808, 1'000'003};
  for (const uint64_t memory : {uint64_t{0}, uint64_t{10'000'000}}) {
    std::vector<std::unique_ptr<File>> files;
    files.push_back(system_files().open(folder.path() / "f", Access::kCreateDirect));
    files[0]->reserve(content.size());
    Writer writer(std::move(files), memory);
    for (size_t part = cuts.size() - 1; part-- > 0;) {
      Writer::Batch batch = writer.take({{0, cuts[part], cuts[part + 1] - cuts[part]}});
      std::copy_n(content.begin() + static_cast<ptrdiff_t>(cuts[part]), batch[0].size(), batch[0].begin());
      writer.submit(std::move(batch));
    }
    writer.wait();
    EXPECT_EQ(writer.written_bytes(), content.size());
    writer.file(0).close();
    std::vector<std::byte> back(content.size());
    system_files().open(folder.path() / "f", Access::kRead)->read(0, back);
    EXPECT_TRUE(back == content);
  }
}

// A file whose requests fail from the n-th on.
class FailingFile : public File {
 public:
  explicit FailingFile(int failing) : File("failing"), left_(failing) {}
  size_t read_some(uint64_t offset, std::span<std::byte> to) override {
    fail(offset);
    std::fill(to.begin(), to.end(), std::byte{1});
    return to.size();
  }
  size_t write_some(uint64_t offset, std::span<const std::byte> from) override {
    fail(offset);
    return from.size();
  }
  uint64_t size() override { return 1 << 20; }
  void set_size(uint64_t) override {}
  void sync() override {}
  void close() override {}

 private:
  void fail(uint64_t offset) {
    if (left_-- <= 0)
      throw Error(ErrorKind::kDiskFull, {.file = path(), .offset = offset}, "cannot write: full");
  }
  std::atomic<int> left_;
};

TEST(Reader, RethrowsAtTheUnitThatFailed) {
  std::vector<std::unique_ptr<File>> files;
  files.push_back(std::make_unique<FailingFile>(1));
  Reader reader(std::move(files), {{{0, 0, 4096}}, {{0, 4096, 4096}}}, 0);
  reader.next();
  expect_error(
      ErrorKind::kDiskFull, [&] { reader.next(); }, "failing", "at byte 4096");
}

TEST(Writer, RethrowsAndDoesNotHang) {
  std::vector<std::unique_ptr<File>> files;
  files.push_back(std::make_unique<FailingFile>(2));
  Writer writer(std::move(files), 8192);
  expect_error(
      ErrorKind::kDiskFull,
      [&] {
        for (uint64_t at = 0; at < 100; ++at) writer.submit(writer.take({{0, at * 4096, 4096}}));
        writer.wait();
      },
      "failing", "full");
}

TEST(MergeRanges, JoinsNeighboursOfOneFile) {
  const std::vector<FileRange> ranges = {{0, 100, 50}, {1, 0, 10}, {0, 0, 100}, {0, 200, 1}};
  const MergedRanges merged = merge_ranges(ranges);
  ASSERT_EQ(merged.ranges.size(), 3u);
  EXPECT_EQ(merged.ranges[0].begin, 0u);
  EXPECT_EQ(merged.ranges[0].size_bytes, 150u);
  EXPECT_EQ(merged.places[0].range, 0u);
  EXPECT_EQ(merged.places[0].offset, 100u);
  EXPECT_EQ(merged.places[1].range, 2u);
  EXPECT_EQ(merged.places[3].range, 1u);
}

}  // namespace
}  // namespace nibblecast
