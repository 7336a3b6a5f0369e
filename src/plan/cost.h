// plan/cost.h - what a run will take: memory, disk, time. Peak memory is a promise: a run stays below it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "model/device_memory.h"
#include "model/forward_pass.h"
#include "plan/plan.h"

namespace nibblecast {

// Of a forward pass; all 0 where there is none.
struct Workload {
  uint64_t rows = 0, tokens = 0, longest_row = 0;
};

// Rows of a linear that one thread makes at a time, values and all; every tile size we write divides it.
inline constexpr uint64_t kRowsPerTask = 128;
// Host memory of CUDA's libraries, mapped and allocated: 0.7 GB measured, most of it code.
inline constexpr uint64_t kCudaHostBytes = 1 << 30;
// Buffers through which residual streams are saved.
inline constexpr uint64_t kSaveStreamsBytes = 32 << 20;

struct MemoryCost {
  uint64_t fixed_bytes = 0;  // program, libraries, headers, plan
  uint64_t read_bytes = 0;   // buffers of the reader
  uint64_t write_bytes = 0;  // buffers of the writer
  uint64_t make_bytes = 0;   // rows of weights on their way from one format to another
  uint64_t dense_bytes = 0;  // one layer's stored tensors besides experts, for the forward pass
  uint64_t forward_bytes =
      0;                    // streams, activations and packed weights of the forward pass; saving the streams
  uint64_t read_units = 1;  // units that read_bytes holds
  CudaMemory device = {};   // of a forward pass there; 0 on the CPU
  uint64_t peak_bytes() const {
    return fixed_bytes + read_bytes + write_bytes + make_bytes + dense_bytes + forward_bytes;
  }
};

// The buffers shrink from their usual size to one expert each to fit `limit_bytes`; whether the peak fits is
// for the caller to see (check_memory). `writes`: there is an output.
MemoryCost memory_cost(const Checkpoint& source, const Plan& plan, const Workload& workload, size_t threads,
                       uint64_t limit_bytes, const ForwardDevice& device = {}, bool writes = true);

// Bytes of the largest MLP that streams by, as stored.
uint64_t largest_expert_bytes(const Plan& plan);

// What this process may use: the smaller of the cgroup's limit and the system's available memory.
uint64_t available_memory();

struct DiskRates {
  double read_bytes_per_second = 0, write_bytes_per_second = 0;
};
// Writes and reads 256 MiB in an unnamed file on the disk of `path`, direct; nothing remains. nullopt where
// that cannot be done (read-only, no such files, full).
std::optional<DiskRates> probe_disk(FileSystem& files, const std::filesystem::path& path);
// Of products in the plan's compute dtype, from a short run of all threads or of the device.
ComputeRates probe_compute(ComputeDtype dtype, const ForwardDevice& device);

// What a job keeps to be resumable: its journal, and the residual streams between two layers twice (the new
// ones are whole before the old ones go).
struct WorkCost {
  uint64_t journal_bytes = 0, streams_bytes = 0;
  uint64_t bytes() const { return journal_bytes + 2 * streams_bytes; }
};
WorkCost work_cost(const Plan& plan, const Workload& workload);

// Layers between two savings of the residual streams: the least number for which saving them takes at most 3
// % of the time, so that a crash costs little and its prevention less.
uint64_t checkpoint_interval(const Plan& plan, const Workload& workload, const DiskRates& disk,
                             const ComputeRates& compute);

// Seconds: reading, writing, the way to a device and the arithmetic overlap, so the longest decides.
double estimated_seconds(const Plan& plan, const Workload& workload, const DiskRates& disk,
                         const ComputeRates& compute);

// Findings (refusals with numbers and remedy), empty when it fits.
std::vector<Finding> check_memory(const MemoryCost& cost, uint64_t limit_bytes);
std::vector<Finding> check_device_memory(const CudaMemory& memory, uint64_t limit_bytes);
std::vector<Finding> check_disk(uint64_t needed_bytes, uint64_t free_bytes,
                                const std::filesystem::path& folder);

}  // namespace nibblecast
