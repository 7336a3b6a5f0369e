#include "pipeline/journal.h"

#include <gtest/gtest.h>

#include "faults/memory_files.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::MemoryFiles;

const std::filesystem::path kPath = "/journal";

std::vector<Json> entries_of(FileSystem& files) {
  std::vector<Json> entries;
  read_journal(files, kPath, [&](const Json& entry) { entries.push_back(entry); });
  return entries;
}

Journal open_journal(FileSystem& files) {
  return Journal(files, kPath, read_journal(files, kPath, [](const Json&) {}));
}

void overwrite(FileSystem& files, const std::string& text) {
  const auto file = files.open(kPath, Access::kCreate);
  file->write(0, std::as_bytes(std::span(text)));
  file->sync();
}

class JournalTest : public ::testing::Test {
 protected:
  JournalTest() {
    Journal journal = open_journal(files_);
    for (int entry = 0; entry < 5; ++entry) journal.append(Json{{"entry", entry}});
    text_ = read_text(files_, kPath, 1 << 20);
  }
  MemoryFiles files_;
  std::string text_;
};

// What a damaged journal gives must be a beginning of what was written, and what is appended then must hold.
void expect_beginning(FileSystem& files, size_t least) {
  std::vector<Json> entries = entries_of(files);
  ASSERT_GE(entries.size(), least);
  for (size_t index = 0; index < entries.size(); ++index) {
    ASSERT_EQ(entries[index], Json({{"entry", index}}));
  }
  open_journal(files).append(Json{{"entry", "new"}});
  entries.push_back({{"entry", "new"}});
  ASSERT_EQ(entries_of(files), entries);
}

TEST_F(JournalTest, GivesBackWhatWasAppended) {
  EXPECT_EQ(entries_of(files_).size(), 5u);
  expect_beginning(files_, 5);
}

TEST_F(JournalTest, CutAtEveryByte) {
  for (size_t size = 0; size < text_.size(); ++size) {
    overwrite(files_, text_.substr(0, size));
    expect_beginning(files_, static_cast<size_t>(std::count(text_.begin(), text_.begin() + size, '\n')));
  }
}

TEST_F(JournalTest, EveryByteChanged) {
  for (size_t at = 0; at < text_.size(); ++at) {
    for (const int flip : {1, 0x20, 0x80, 0xff}) {
      std::string damaged = text_;
      damaged[at] = static_cast<char>(damaged[at] ^ flip);
      overwrite(files_, damaged);
      expect_beginning(files_, static_cast<size_t>(std::count(text_.begin(), text_.begin() + at, '\n')));
    }
  }
}

TEST_F(JournalTest, LinesThatWereSwappedOrRepeatedDoNotHold) {
  const size_t first = text_.find('\n') + 1, second = text_.find('\n', first) + 1;
  const std::string a = text_.substr(0, first), b = text_.substr(first, second - first);
  overwrite(files_, b + a);
  EXPECT_TRUE(entries_of(files_).empty());
  overwrite(files_, a + b + b);
  EXPECT_EQ(entries_of(files_).size(), 2u);
}

TEST_F(JournalTest, IsEmptyWhereThereIsNone) {
  files_.remove(kPath);
  EXPECT_TRUE(entries_of(files_).empty());
}

}  // namespace
}  // namespace nibblecast
