// pipeline/journal.h - an append-only file of JSON entries that survives a crash at any moment.
//
// One entry a line: 32 hexadecimal digits, a space, the entry as compact JSON, a line feed. The digits are
// XXH3-128 of the previous line's digits and the entry, so an entry holds only where it was written, after
// what was written before it. Reading ends at the first line that does not hold; whatever follows is a torn
// or garbled tail, and work it spoke of is done again.
#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"

namespace nibblecast {

// How far a journal holds.
struct JournalEnd {
  uint64_t whole_bytes = 0;  // up to here every line does
  uint64_t file_bytes = 0;
  std::string last_digest;
};

// Gives every entry that holds to `entry`. The file need not exist, and is not changed. Error kIo where it
// cannot be read.
JournalEnd read_journal(FileSystem& files, const std::filesystem::path& path,
                        const std::function<void(const Json&)>& entry);

class Journal {
 public:
  // Goes on at `end`, which read_journal() found: the tail is cut off. A new file is durable with its name on
  // return.
  Journal(FileSystem& files, const std::filesystem::path& path, const JournalEnd& end);

  // Durable on return. After an error, which later calls throw again, nothing more is appended: what is on
  // disk is no longer known. Thread-safe.
  void append_all(std::span<const Json> entries);
  void append(const Json& entry) { append_all({&entry, 1}); }

 private:
  std::mutex mutex_;
  std::unique_ptr<File> file_;
  uint64_t end_ = 0;
  std::string last_digest_;
  std::exception_ptr error_;
};

}  // namespace nibblecast
