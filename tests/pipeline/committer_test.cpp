#include "pipeline/committer.h"

#include <thread>

#include "base/error.h"
#include "faults/memory_files.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::MemoryFiles;

constexpr auto kInterval = std::chrono::milliseconds(1);

// Takes a while to sync, and may fail then.
class SlowFile : public File {
 public:
  explicit SlowFile(bool fails) : File("slow"), fails_(fails) {}
  size_t read_some(uint64_t, std::span<std::byte>) override { return 0; }
  size_t write_some(uint64_t, std::span<const std::byte> from) override { return from.size(); }
  uint64_t size() override { return 0; }
  void set_size(uint64_t) override {}
  void sync() override {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    if (fails_) throw Error(ErrorKind::kIo, {.file = path()}, "cannot sync");
  }
  void close() override {}

 private:
  const bool fails_;
};

class CommitterTest : public ::testing::Test {
 protected:
  void open(bool fails) {
    std::vector<std::unique_ptr<File>> shards;
    shards.push_back(std::make_unique<SlowFile>(fails));
    writer_.emplace(std::move(shards), 1 << 20);
    journal_.emplace(files_, "/journal", JournalEnd{});
    committer_.emplace(*writer_, *journal_, kInterval);
  }
  void write_one() {
    const uint64_t batch = writer_->submit(writer_->take({{0, 0, 8}}));
    writer_->wait();
    committer_->add(batch, {0}, Json{{"entry", batch}});
  }
  // Until the committer's thread is in the middle of a commit.
  static void let_it_begin() { std::this_thread::sleep_for(std::chrono::milliseconds(30)); }
  size_t entries() {
    size_t count = 0;
    read_journal(files_, "/journal", [&](const Json&) { ++count; });
    return count;
  }

  MemoryFiles files_;
  std::optional<Writer> writer_;
  std::optional<Journal> journal_;
  std::optional<Committer> committer_;
};

TEST_F(CommitterTest, EntriesFollowTheSync) {
  open(false);
  write_one();
  EXPECT_EQ(entries(), 0u);
  let_it_begin();
  committer_->flush();  // waits for the commit under way
  EXPECT_EQ(entries(), 1u);
}

TEST_F(CommitterTest, ACommitThatFailsWhileFlushWaitsIsNoticed) {
  open(true);
  write_one();
  let_it_begin();
  expect_error(
      ErrorKind::kIo, [&] { committer_->flush(); }, "cannot sync");
  EXPECT_EQ(entries(), 0u);
  expect_error(
      ErrorKind::kIo, [&] { committer_->add(2, {0}, Json{}); }, "cannot sync");
}

}  // namespace
}  // namespace nibblecast
