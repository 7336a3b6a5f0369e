// pipeline/job.h - what a job leaves behind so that the next run of the same command goes on: who it is
// (job.json), what is durable (journal), and the residual streams between layers (streams-N).
//
//   FOLDER/lock        held while a process works on the job; names it
//   FOLDER/job.json    identity, source files as they were, totals, the command that began it,
//                      the work folder
//   FOLDER/rows        the calibration rows' token ids, if there are any (pipeline/saved_rows.h)
//   WORK/journal       pipeline/journal.h; entries below
//   WORK/streams-N     the residual streams that enter layer N; after the last layer, the head
//
// Journal entries, in the order of their making:
//   {"job": {...}}      first line: which job
//   {"attempt": {...}}  a process begins; {"end": {...}} it ended in order, or with an error
//   {"done": {...}}     planned tensors whose bytes are durable, with their XXH3-128
//   {"layer": {...}}    what calibration measured of a layer, each time it is computed
//   {"perplexity": {...}}  of the rows, after the last layer; journals of older versions have none
//   {"streams": {...}}  saved streams that are durable
//   {"shards": [...]}   stamps of shards after a sync that entries followed: [shard, id, changed_ns]
//   {"lost": {...}}     tensors that are not there (pipeline/kept_shards.h): to be made again
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "model/activation_amax.h"
#include "model/logits.h"
#include "pipeline/command_record.h"
#include "pipeline/group_maker.h"
#include "pipeline/journal.h"

namespace nibblecast {

// A process that worked on the job.
struct Attempt {
  std::string began;  // UTC, as 2026-01-31T12:00:00Z
  std::string host, version;
  int64_t pid = 0;
  std::string ended;               // UTC; empty: it was killed, or is at work
  std::string end;                 // "finished", or the error's text
  std::string last;                // the stage it made something of durable last: "layer 3"
  uint64_t bytes = 0, layers = 0;  // that it made durable, and measured
  Json json() const;
};

struct DurableTensor {
  std::string checksum;  // XXH3-128 of its bytes
  MadeCounts counts;     // of a weight
  uint64_t size_bytes = 0;
};

using ShardStamps = std::map<uint32_t, FileStamp>;  // by index into Plan::shards

struct SavedStreams {
  uint64_t layer = 0;  // they enter it; num_hidden_layers: the head
  std::string file;    // in the work folder
  uint64_t size_bytes = 0;
  std::string checksum;
};

// What a journal says.
struct JobState {
  std::vector<Attempt> attempts;
  std::unordered_map<uint32_t, DurableTensor> tensors;  // by index into Plan::tensors
  std::unordered_map<uint32_t, float> scalars;          // weight_scale_2 of durable weights
  ShardStamps stamps;                                   // the newest of each shard
  uint64_t durable_bytes = 0;
  std::map<uint64_t, LayerAmax> layers;
  std::map<uint64_t, uint64_t> layer_passes;  // how often each was computed
  std::optional<SavedStreams> streams;
  std::optional<Perplexity> perplexity;
  uint64_t tensors_made_twice = 0;  // durable a second time though they were not lost
};

// One unit of work's part of a "done" entry.
struct DoneTensor {
  uint32_t tensor = 0;
  DurableTensor is;
};
struct DoneUnit {
  std::string stage;
  std::vector<DoneTensor> tensors;
  std::vector<std::pair<uint32_t, float>> scalars;  // by index into Plan::tensors
};
Json done_entry(const DoneUnit& unit);
Json layer_entry(const LayerAmax& layer);
Json perplexity_entry(const Perplexity& perplexity);
Json streams_entry(const SavedStreams& streams);
Json stamps_entry(const ShardStamps& stamps);
Json lost_entry(const std::vector<uint32_t>& tensors);

// What makes two runs the same job, and what they will make.
struct JobDescription {
  Json identity;                         // name -> value, of everything that decides the output's bytes
  Json source;                           // path, and of each shard name, size, mtime and header hash
  Json totals;                           // tensors, bytes, layers: for `status`
  Json options = Json::object();         // of the command, with defaults: "--weight-method" -> "cast"
  std::optional<CommandRecord> command;  // that began it
};
JobDescription describe_job(const Checkpoint& source, Json identity, Json totals);

// What job.json says.
struct JobDocument {
  JobDescription description;
  std::filesystem::path work_folder;
  std::filesystem::path begun_in;  // absolute; the job's folder when it was made
};
// nullopt: there is none. Error kBadInput: no version of ours wrote it, or it is damaged.
std::optional<JobDocument> read_job_document(FileSystem& files, const std::filesystem::path& folder);

// A job's folder as it is found, with its journal; reading changes nothing.
struct JobRecord {
  JobDescription description;
  std::filesystem::path work_folder;
  JobState state;
  uint64_t journal_bytes = 0, torn_bytes = 0;  // torn: after the last line that holds
  int64_t journal_changed_ns = 0;              // when it was written to last
  std::string holder;                          // what the lock file says; may be stale
};
// As read_job_document(), of the journal too.
std::optional<JobRecord> read_job(FileSystem& files, const std::filesystem::path& folder);

// Throws kRefused unless `found` is the job that `asked` describes and the source's files are what they were.
// Names the options that differ, with both values, and how a file whose time alone differs is mended.
void require_same_job(const JobDescription& found, const JobDescription& asked, const std::string& place);

// Removes a job's files and folders, as far as they are there.
void remove_job(FileSystem& files, const std::filesystem::path& folder,
                const std::filesystem::path& work_folder);

class Job {
 public:
  // Begins or resumes; `folder` is created. `work_folder` empty: where the job was begun, or `folder`.
  // Errors: kRefused if another process holds the lock (with its pid and host), or it is another job.
  static Job open(FileSystem& files, const std::filesystem::path& folder,
                  const std::filesystem::path& work_folder, const JobDescription& description);

  // As the journal had it when the job was opened, this attempt included; the run may take tensors out that
  // turn out to be lost.
  JobState& state() { return state_; }
  Journal& journal() { return *journal_; }
  FileSystem& files() const { return *files_; }
  const std::filesystem::path& folder() const { return folder_; }
  const std::filesystem::path& work_folder() const { return work_folder_; }
  bool resumed() const { return resumed_; }
  // That began it; nothing where nobody said.
  const std::optional<CommandRecord>& command() const { return command_; }

  // How this attempt ended; what cannot be written is left out. Thread-safe.
  void note_end(const std::string& text) noexcept;
  // This attempt included, as they stand in nibblecast.json.
  Json attempts_json(const std::string& end) const;
  // The job is over: its files and folders go.
  void close() { remove_job(*files_, folder_, work_folder_); }

 private:
  Job() = default;
  void create(const JobDescription& description, bool work_here);
  void open_journal(const JobDescription& description);

  FileSystem* files_ = nullptr;
  std::filesystem::path folder_, work_folder_;
  std::unique_ptr<FileLock> lock_;
  std::unique_ptr<Journal> journal_;
  JobState state_;
  std::optional<CommandRecord> command_;
  bool resumed_ = false;
};

// Locks FOLDER/lock for this process. kRefused, naming the holder, where another one is at work there.
std::unique_ptr<FileLock> lock_work_folder(FileSystem& files, const std::filesystem::path& folder);

std::string utc_now();
// Of what utc_now() gave: seconds since 1970; nullopt for other texts.
std::optional<int64_t> utc_seconds(const std::string& text);

}  // namespace nibblecast
