// tests/faults/kill_runs.h - kills a real job on the real file system at moments all over it, lets it go on,
// and compares what it makes with what a run makes that nobody disturbed.
//
// Each run is a process of its own (fork), so the caller must have no threads.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "faults/watched_files.h"
#include "pipeline/small_models.h"

namespace nibblecast::testing {

struct KillOptions {
  SmallModel model;
  uint64_t kills = 30;
  uint64_t seed = 0;
  double aimed =
      0.8;  // share of kills that come when the job is about something chosen; the others at any time
  double again = 0.7;  // how likely the run that goes on is killed too
  double harm = 0;     // how likely a shard is removed, cut or replaced after a kill
};

struct KillReport {
  double seconds = 0;                       // of an undisturbed run
  std::array<uint64_t, kDoings> hits = {};  // by what the job was about when it died
  uint64_t kills = 0, jobs = 0;
  uint64_t of_resumed_runs = 0;  // kills
  uint64_t harmed_shards = 0;
  uint64_t most_in_a_row = 0;
  uint64_t ended_first = 0;                          // runs that were over before their kill
  uint64_t layers_again = 0, most_layers_again = 0;  // forward passes begun again; most: after one kill
  uint64_t bytes_again = 0, shard_bytes = 0;         // written to shards again; of one output's shards
  uint64_t tensors_made_twice = 0;                   // durable ones, by the journals
  std::vector<std::string> problems;                 // what should not be; empty if all is well

  std::string text() const;
};

// In `folder`, which must be empty.
KillReport kill_runs(const std::filesystem::path& folder, const KillOptions& options);

}  // namespace nibblecast::testing
