// pipeline/preflight.h - all that can be known to hinder a job before anything is written; one list for `plan`,
// which prints it, and for the commands that run.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/destination.h"
#include "pipeline/run.h"
#include "plan/cost.h"
#include "plan/plan.h"
#include "plan/time_left.h"

namespace nibblecast {

// What the caller wants of a job beside its output.
struct JobOptions {
  std::string work_folder;
  uint64_t checkpoint_every = 0;  // 0: chosen
  bool strict = false;            // what would be a warning is a refusal
  bool allow_nonfinite = false;
  std::optional<double> max_perplexity = {};
};

// What the job may use.
struct JobMeans {
  uint64_t memory_bytes = 0;
  size_t threads = 1;                      // --threads
  size_t processors = 1;                   // that there are
  ForwardDevice device = {};               // memory_bytes: what may be taken of it
  std::vector<std::string> warnings = {};  // about them
  std::function<void(JobDescription&)> describe = {};  // puts the command that runs into it; may be empty
};

struct Preflight {
  Workload workload;
  uint64_t memory_limit = 0;
  MemoryCost memory;
  ForwardDevice device;  // expert_bytes and held_owners are set
  JobDescription job;
  std::optional<DestinationState> destination;  // nothing: refused, or none named
  std::filesystem::path disk_folder;            // where the output is, or would be, put
  uint64_t disk_need = 0, disk_free = 0;        // free: what this job already has there included
  WorkCost work;
  std::optional<DiskRates> disk;  // measured; nothing where it was not, or could not be
  ComputeRates compute;           // measured; 0 where they were not
  uint64_t checkpoint_every = 0;  // 0: no forward pass
  std::vector<Finding> findings;  // those of the plan first

  size_t processors = 1;  // that there are

  bool refused() const;
  size_t read_threads() const;
  ProbedRates probed() const { return {.disk = disk, .compute = compute}; }
};

// `destination` empty: beside the source, or in the current folder where that is on a server. `measure`: disk and products in any case, for an estimate of the
// time.
Preflight preflight(const Checkpoint& source, const Plan& plan, const Activations& activations,
                    const std::filesystem::path& destination, const JobOptions& options,
                    const JobMeans& means, bool measure);

// Of `nibblecast calibrate`, whose output is one file.
Preflight preflight_calibration(const Checkpoint& source, const Plan& plan, const Activations& activations,
                                const std::filesystem::path& amax_output, const JobOptions& options,
                                const JobMeans& means);

// Where `nibblecast calibrate -o OUTPUT` keeps its job.
std::filesystem::path calibration_job_folder(const std::filesystem::path& amax_output);

// Bytes that a finished output takes on disk: shards, side files, documents.
uint64_t disk_need(const Checkpoint& source, const Plan& plan);
// Bytes that the files of a folder take on disk, as far as they can be read: what a job that goes on need not
// take again.
uint64_t folder_bytes(FileSystem& files, const std::filesystem::path& folder);

// What a forward pass over these rows works on.
Workload workload_of(const Activations& activations);

}  // namespace nibblecast
