// Files far larger than memory should be: what is read of them and what is held, counted.
#include <gmock/gmock.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "base/json.h"
#include "calibration/rows.h"
#include "calibration/text_reader.h"
#include "plain_file.h"
#include "testing.h"

namespace {

// Bytes on the heap now, and most since reset_peak().
std::atomic<int64_t> held{0}, peak{0};

void note(void* block, int sign) {
  const int64_t now = held += sign * static_cast<int64_t>(malloc_usable_size(block));
  int64_t before = peak;
  while (now > before && !peak.compare_exchange_weak(before, now)) {
  }
}

}  // namespace

void* operator new(size_t bytes) {
  void* const block = std::malloc(bytes);
  if (block == nullptr) throw std::bad_alloc();
  note(block, 1);
  return block;
}
// What std::stable_sort asks for; its memory goes back by the delete below.
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  void* const block = std::malloc(bytes);
  if (block != nullptr) note(block, 1);
  return block;
}
void operator delete(void* block) noexcept {
  if (block == nullptr) return;
  note(block, -1);
  std::free(block);
}
void operator delete(void* block, size_t) noexcept { operator delete(block); }

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;
using testing::write_plainly;

constexpr uint64_t kLongBytes = 200 << 20;
constexpr uint64_t kFileBytes = 40 << 20;  // more than is held of a record
constexpr int64_t kMiB = 1 << 20;

// `head`, then `body` again and again, then `tail`: so many bytes in all, made where they are read.
struct Shape {
  std::string head, body, tail;
  uint64_t bytes = kFileBytes;
};

class Repeated : public File {
 public:
  Repeated(Shape shape, uint64_t& read_up_to)
      : File("long"), shape_(std::move(shape)), read_up_to_(read_up_to) {
    const size_t body_bytes = shape_.body.size();
    while (shape_.body.size() < TextReader::kReadBytes) shape_.body += shape_.body.substr(0, body_bytes);
  }

  size_t read_some(uint64_t offset, std::span<std::byte> to) override {
    const std::string_view part = part_at(offset);
    const size_t bytes = std::min(to.size(), part.size());
    std::memcpy(to.data(), part.data(), bytes);
    read_up_to_ = std::max(read_up_to_, offset + bytes);
    return bytes;
  }
  size_t write_some(uint64_t, std::span<const std::byte>) override { std::abort(); }
  uint64_t size() override { return shape_.bytes; }
  void set_size(uint64_t) override { std::abort(); }
  void sync() override {}
  void close() override {}

 private:
  // What stands at `offset`, as far as it can be shown in one piece.
  std::string_view part_at(uint64_t offset) const {
    const auto& [head, body, tail, bytes] = shape_;
    const uint64_t tail_begin = bytes - tail.size();
    if (offset < head.size()) return std::string_view(head).substr(offset);
    if (offset >= tail_begin) return std::string_view(tail).substr(offset - tail_begin);
    return std::string_view(body).substr((offset - head.size()) % body.size()).substr(0, tail_begin - offset);
  }

  Shape shape_;
  uint64_t& read_up_to_;
};

// Holds one such file, called "long".
class OneFile : public FileSystem {
 public:
  explicit OneFile(Shape shape) : shape_(std::move(shape)) {}

  std::unique_ptr<File> open(const Path&, Access) override {
    return std::make_unique<Repeated>(shape_, read_up_to);
  }
  std::optional<FileStatus> status(const Path& path) override {
    return path == "long" ? std::optional(FileStatus{.size_bytes = shape_.bytes}) : std::nullopt;
  }
  std::vector<std::string> list(const Path&) override { return {}; }
  void create_folders(const Path&) override { std::abort(); }
  void rename(const Path&, const Path&) override { std::abort(); }
  void remove(const Path&) override { std::abort(); }
  void copy(const Path&, const Path&) override { std::abort(); }
  void sync_folder(const Path&) override { std::abort(); }
  Path real_path(const Path& path) override { return path; }
  Disk disk(const Path&) override { std::abort(); }
  std::unique_ptr<File> open_unnamed(const Path&) override { std::abort(); }
  std::unique_ptr<FileLock> try_lock(const Path&, std::string_view) override { std::abort(); }

  uint64_t read_up_to = 0;

 private:
  Shape shape_;
};

class BoundedReading : public ::testing::Test {
 protected:
  struct Result {
    CalibrationRows rows;
    uint64_t read = 0;
    int64_t held = 0;
  };

  Result read(const Shape& shape, const RowsOptions& options, uint64_t count) {
    OneFile files(shape);
    const auto sets = find_calibration_sets(files, "long", count, "no cache");
    const int64_t before = held;
    peak = before;
    Result result;
    result.rows = read_rows(
        files, sets, [&] { return &tokenizer_; }, -1, 1 << 24, options);
    result.held = peak - before;
    result.read = files.read_up_to;
    return result;
  }

 private:
  static Tokenizer load() {
    const std::string file = NIBBLECAST_SOURCE_DIR "/tests/calibration/golden/deepseek.json";
    const TemporaryFolder folder;
    write_plainly(folder.path() / "tokenizer.json",
                  parse_json(read_text(system_files(), file, 1 << 20), file)["tokenizer"].dump());
    return Tokenizer::load(system_files(), folder.path() / "tokenizer.json");
  }

  Tokenizer tokenizer_ = load();
};

constexpr const char* kWords = "a line of words, all on it; 12345 of them and more ";

TEST_F(BoundedReading, PlainTextIsReadAsFarAsItsRow) {
  const auto docs = read({"", kWords, "", kLongBytes}, {.length = 512}, 128);
  EXPECT_EQ(docs.rows.tokens(), 512u);
  EXPECT_LT(docs.read, 1u << 20);
  EXPECT_LT(docs.held, 16 * kMiB);
  ASSERT_EQ(docs.rows.warnings.size(), 1u);
  EXPECT_THAT(docs.rows.warnings[0], ::testing::StartsWith("used 512 of about "));
}

TEST_F(BoundedReading, PackedRowsEndTheReading) {
  const auto packed = read({"", kWords, "", kLongBytes}, {.policy = RowsPolicy::kPacked, .length = 512}, 128);
  EXPECT_EQ(packed.rows.tokens(), 128u * 512);
  EXPECT_LT(packed.read, 2u << 20);
  EXPECT_LT(packed.held, 16 * kMiB);
}

TEST_F(BoundedReading, AnArrayIsReadRecordByRecord) {
  const std::string record = std::string("{\"text\": \"") + kWords + "\"}, ";
  const auto rows = read({"[", record, "\"the end\"]", kLongBytes}, {.length = 512}, 100);
  EXPECT_EQ(rows.rows.ids.size(), 100u);
  EXPECT_LT(rows.read, 1u << 20);
  EXPECT_LT(rows.held, 16 * kMiB);
}

TEST_F(BoundedReading, OfALongRecordTheBeginningIsHeld) {
  for (const auto& [head, tail] :
       {std::pair("{\"text\": \"", "\"}"), std::pair("[\"", "\"]"), std::pair("\"", "\""),
        std::pair("{\"messages\": [{\"content\": \"", "\"}]}"), std::pair("id,text\n1,\"", "\"\n"),
        std::pair("{\"meta\": \"", "\", \"text\": \"a word or two of a text\"}")}) {
    const auto rows = read({head, kWords, tail}, {.length = 8}, 2);
    EXPECT_EQ(rows.rows.ids.size(), 1u) << head;
    EXPECT_LT(rows.held, 96 * kMiB) << head;
  }
  EXPECT_LT(read({"{\"meta\": [", "1, ", "3], \"text\": \"a\"}"}, {}, 1).held, 16 * kMiB);
}

TEST_F(BoundedReading, ALineOfAnyLength) {
  const auto rows = read({"{\"text\": \"", kWords, "\"}", kLongBytes}, {.length = 512}, 1);
  EXPECT_EQ(rows.rows.tokens(), 512u);
  EXPECT_LT(rows.held, 96 * kMiB);
}

TEST_F(BoundedReading, WhatCannotBeHeldIsRefused) {
  const RowsOptions packed{.policy = RowsPolicy::kPacked, .length = 100'000};
  expect_error(
      ErrorKind::kRefused,
      [&] {
        read({"", "word", ""}, {.memory_bytes = 300 << 20}, 1);
      },
      "long", "a word", "--memory");
  expect_error(
      ErrorKind::kRefused,
      [&] {
        read({"{\"text\": \"", kWords, "\"}"}, packed, 1000);
      },
      "long", "is longer than the 16777216 bytes");
  expect_error(
      ErrorKind::kRefused,
      [&] {
        read({"", kWords, ""}, {.policy = RowsPolicy::kPacked, .memory_bytes = 1 << 20}, 1000);
      },
      "long", "do not fit into memory");
  EXPECT_LT(peak - held, 256 * kMiB);
}

TEST_F(BoundedReading, OfManyValuesToo) {
  expect_error(
      ErrorKind::kBadInput,
      [&] {
        read({"{\"input_ids\": [", "1, ", "1]}"}, {}, 1);
      },
      "long", "too many values");
}

}  // namespace
}  // namespace nibblecast
