#include "pipeline/committer.h"

#include <semaphore>
#include <thread>

#include "base/error.h"
#include "faults/memory_files.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::MemoryFiles;

constexpr auto kInterval = std::chrono::milliseconds(1);

// The two moments of a sync that a test waits for or decides on.
struct SyncGate {
  std::binary_semaphore begun{0}, may_end{0};
};

// A sync under way ends when the gate says so, and may fail then.
class GatedFile : public File {
 public:
  GatedFile(SyncGate& gate, bool fails) : File("gated"), gate_(gate), fails_(fails) {}
  size_t read_some(uint64_t, std::span<std::byte>) override { return 0; }
  size_t write_some(uint64_t, std::span<const std::byte> from) override { return from.size(); }
  uint64_t size() override { return 0; }
  void set_size(uint64_t) override {}
  void sync() override {
    gate_.begun.release();
    gate_.may_end.acquire();
    if (fails_) throw Error(ErrorKind::kIo, {.file = path()}, "cannot sync");
  }
  void close() override {}

 private:
  SyncGate& gate_;
  const bool fails_;
};

class CommitterTest : public ::testing::Test {
 protected:
  void open(bool fails) {
    std::vector<std::unique_ptr<File>> shards;
    shards.push_back(std::make_unique<GatedFile>(gate_, fails));
    writer_.emplace(std::move(shards), 1 << 20);
    journal_.emplace(files_, "/journal", JournalEnd{});
    committer_.emplace(*writer_, *journal_, kInterval);
  }
  void write_one() {
    const uint64_t batch = writer_->submit(writer_->take({{0, 0, 8}}));
    writer_->wait();
    committer_->add(batch, {0}, Json{{"entry", batch}});
  }
  // `flush` runs beside a commit of the committer's own thread that is in the middle of its sync.
  template <class Flush>
  void flush_during_commit(const Flush& flush) {
    gate_.begun.acquire();
    EXPECT_EQ(entries(), 0u);
    std::thread flushing(flush);
    gate_.may_end.release();
    flushing.join();
  }
  size_t entries() {
    size_t count = 0;
    read_journal(files_, "/journal", [&](const Json&) { ++count; });
    return count;
  }

  SyncGate gate_;
  MemoryFiles files_;
  std::optional<Writer> writer_;
  std::optional<Journal> journal_;
  std::optional<Committer> committer_;
};

TEST_F(CommitterTest, EntriesFollowTheSync) {
  open(false);
  write_one();
  flush_during_commit([&] { committer_->flush(); });
  EXPECT_EQ(entries(), 1u);
}

TEST_F(CommitterTest, ACommitThatFailsWhileFlushWaitsIsNoticed) {
  open(true);
  write_one();
  flush_during_commit([&] {
    expect_error(
        ErrorKind::kIo, [&] { committer_->flush(); }, "cannot sync");
  });
  EXPECT_EQ(entries(), 0u);
  expect_error(
      ErrorKind::kIo, [&] { committer_->add(2, {0}, Json{}); }, "cannot sync");
}

}  // namespace
}  // namespace nibblecast
