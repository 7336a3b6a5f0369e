// pipeline/committer.h - makes finished work durable in groups, behind the back of whoever does it: one fsync
// of each shard for a batch of tensors, then the batch's journal entries, with the shards' stamps.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "base/json.h"
#include "pipeline/journal.h"
#include "pipeline/writer.h"

namespace nibblecast {

class Committer {
 public:
  // Of `writer`'s files, into `journal`; both outlive it. A group is committed when it is `interval` old.
  Committer(Writer& writer, Journal& journal, std::chrono::milliseconds interval);
  // What was not committed stays so.
  ~Committer();

  // `entry` holds once all batches up to number `batch` are durable in `shards`. Rethrows the error of an
  // earlier commit. Not thread-safe.
  void add(uint64_t batch, std::vector<uint32_t> shards, Json entry);
  // Everything added is durable; the caller has waited for the writer.
  void flush();
  // As flush(), of what the writer has written so far; what fails is left.
  void flush_quietly() noexcept;

 private:
  struct Pending {
    uint64_t batch = 0;
    std::vector<uint32_t> shards;
    Json entry;
  };

  void work();
  void commit();  // what is written, unless an earlier commit failed; callable from any thread
  void rethrow_error();

  Writer& writer_;
  Journal& journal_;
  const std::chrono::milliseconds interval_;
  std::mutex commit_mutex_;  // one commit at a time
  std::mutex mutex_;         // of the members below
  std::condition_variable wake_;
  std::deque<Pending> pending_;
  std::exception_ptr error_;
  bool stop_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace nibblecast
