#include "pipeline/committer.h"

#include <set>
#include <utility>

#include "base/threads.h"
#include "pipeline/job.h"

namespace nibblecast {

Committer::Committer(Writer& writer, Journal& journal, std::chrono::milliseconds interval)
    : writer_(writer), journal_(journal), interval_(interval), thread_(start_thread([this] { work(); })) {}

Committer::~Committer() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Committer::add(uint64_t batch, std::vector<uint32_t> shards, Json entry) {
  rethrow_error();
  const std::lock_guard lock(mutex_);
  pending_.push_back({batch, std::move(shards), std::move(entry)});
}

void Committer::flush() { commit(); }

void Committer::flush_quietly() noexcept {
  try {
    commit();
  } catch (...) {  // the error that stopped the run is the one to report
  }
}

void Committer::work() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, interval_, [this] { return stop_ || error_; })) {
    if (pending_.empty()) continue;
    lock.unlock();
    try {
      commit();
    } catch (...) {  // kept in error_
    }
    lock.lock();
  }
}

void Committer::commit() {
  const std::lock_guard one_at_a_time(commit_mutex_);
  rethrow_error();  // only now: the other thread's commit may have failed while this one waited
  const uint64_t written = writer_.written_batches();
  std::vector<Json> entries;
  std::set<uint32_t> shards;
  {
    const std::lock_guard lock(mutex_);
    for (; !pending_.empty() && pending_.front().batch <= written; pending_.pop_front()) {
      shards.insert(pending_.front().shards.begin(), pending_.front().shards.end());
      entries.push_back(std::move(pending_.front().entry));
    }
  }
  if (entries.empty()) return;
  try {
    ShardStamps stamps;
    for (const uint32_t shard : shards) {
      writer_.file(shard).sync();
      if (const auto stamp = writer_.file(shard).stamp()) stamps[shard] = *stamp;
    }
    if (!stamps.empty()) entries.push_back(stamps_entry(stamps));
    journal_.append_all(entries);
  } catch (...) {
    // After a sync that failed, one that succeeds proves nothing: there is no commit after this one.
    const std::lock_guard lock(mutex_);
    error_ = std::current_exception();
    throw;
  }
}

void Committer::rethrow_error() {
  const std::lock_guard lock(mutex_);
  if (error_) std::rethrow_exception(error_);
}

}  // namespace nibblecast
