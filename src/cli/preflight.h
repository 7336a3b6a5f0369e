// cli/preflight.h - all that can be known to hinder a job before anything is written; one list for `plan`,
// which prints it, and for the commands that run.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cli/common_options.h"
#include "cli/device.h"
#include "pipeline/destination.h"
#include "pipeline/run.h"
#include "plan/cost.h"
#include "plan/plan.h"
#include "plan/time_left.h"

namespace nibblecast {

// --work-dir, --checkpoint-every, --strict, --allow-nonfinite, --max-perplexity.
struct JobOptions {
  std::string work_folder;
  uint64_t checkpoint_every = 0;  // 0: chosen
  bool strict = false;
  bool allow_nonfinite = false;
  std::optional<double> max_perplexity = {};
};
void add_job_options(CLI::App& app, JobOptions& options);
void add_work_options(CLI::App& app, JobOptions& options);  // of jobs without a forward pass
// --base-model, of what gets a model card.
void add_base_model(CLI::App& app, std::string& base_model);
// kUsage unless it is empty or an OWNER/NAME.
void require_hub_id(const std::string& base_model);

struct Preflight {
  Workload workload;
  uint64_t memory_limit = 0;
  MemoryCost memory;
  ChosenDevice device;  // forward.expert_bytes and held_owners are set
  JobDescription job;
  std::optional<DestinationState> destination;  // nothing: refused, or none named
  std::filesystem::path disk_folder;            // where the output is, or would be, put
  uint64_t disk_need = 0, disk_free = 0;        // free: what this job already has there included
  WorkCost work;
  std::optional<DiskRates> disk;  // measured; nothing where it was not, or could not be
  ComputeRates compute;           // measured; 0 where they were not
  uint64_t checkpoint_every = 0;  // 0: no forward pass
  std::vector<Finding> findings;  // those of the plan first

  bool refused() const;
  size_t read_threads() const;
  ProbedRates probed() const { return {.disk = disk, .compute = compute}; }
};

// `destination` empty: beside the source. `measure`: disk and products in any case, for an estimate of the
// time.
Preflight preflight(const Checkpoint& source, const Plan& plan, const Activations& activations,
                    const std::filesystem::path& destination, const JobOptions& options,
                    const CommonOptions& common, const ChosenDevice& device, bool measure);

// Of `nibblecast calibrate`, whose output is one file.
Preflight preflight_calibration(const Checkpoint& source, const Plan& plan, const Activations& activations,
                                const std::filesystem::path& amax_output, const JobOptions& options,
                                const CommonOptions& common, const ChosenDevice& device);

// Where `nibblecast calibrate -o OUTPUT` keeps its job.
std::filesystem::path calibration_job_folder(const std::filesystem::path& amax_output);

}  // namespace nibblecast
