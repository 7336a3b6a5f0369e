#include "plan/cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>
#include <string>

#include "base/buffer.h"
#include "base/error.h"
#include "base/parallel.h"
#include "base/size_text.h"
#include "calibration/rows.h"
#include "ops/cross_entropy.h"
#include "ops/matmul.h"
#include "plan/memory_room.h"
#include "plan/second_moments.h"
#include "remote/address.h"
#include "remote/remote_folder.h"

namespace nibblecast {
namespace {

constexpr uint64_t kMiB = 1 << 20;
// Code and libraries, threads' stacks, the allocator's slack: 60 MiB measured, and room.
constexpr uint64_t kProgramBytes = 96 * kMiB;
// A tensor's names, shapes and offsets in source, plan and index: 0.7 KB measured.
constexpr uint64_t kBytesPerTensor = 1000;
// Buffers for this many experts, read and written, keep the disk busy while others are worked on.
constexpr uint64_t kUnitsUnderWay = 4;
// For a device. So few stay in the processor's cache between being read and being sent: with 24, memory
// traffic held reading to 36 GB/s where the bus does 53 (bench/results/gpu.md).
constexpr uint64_t kUnitsToDevice = 5;
constexpr uint64_t kLeastUnit = 16 * kMiB;  // a chunk of kept bytes

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

uint64_t stored_bytes(const PlannedGroup& group) {
  uint64_t bytes = 0;
  for (const PlannedLinear& linear : group.linears) bytes += linear.source.size_bytes();
  return bytes;
}

// Of a layer, but for the MLPs that stream by.
uint64_t dense_bytes(const Plan& plan, const Stage& stage) {
  uint64_t bytes = 0;
  for (const uint32_t tensor : stage.kept) bytes += plan.tensors[tensor].out.size_bytes;
  for (const PlannedGroup& group : stage.groups)
    if (!group.expert) bytes += stored_bytes(group);
  return bytes;
}

// MXFP4 scales of a group whose FP8 is looked at; the codes lie where the output's go.
uint64_t tried_bytes(const Plan& plan) {
  uint64_t most = 0;
  for (const Stage& stage : plan.stages) {
    for (const PlannedGroup& group : stage.groups) {
      uint64_t bytes = 0;
      for (const PlannedLinear& linear : group.linears)
        if (linear.try_cast) bytes += linear.source.format.rows * linear.source.format.cols / 32;
      most = std::max(most, bytes);
    }
  }
  return most;
}

// Values as BF16 and as FP32, of the widest weight that is not copied or cast.
uint64_t make_bytes(const Plan& plan, size_t threads) {
  uint64_t widest = 0;
  for (const PlannedTensor& tensor : plan.tensors) {
    if (tensor.make == Make::kKeep || tensor.make == Make::kCastWeight || is_scalar(tensor.make)) continue;
    const uint64_t cols = tensor.out.shape.empty() ? 1 : tensor.out.shape.back();
    widest = std::max(widest, cols * (tensor.out.dtype == Dtype::kU8 ? 2 : 1));
  }
  return threads * kRowsPerTask * widest * (sizeof(bf16) + sizeof(float)) + tried_bytes(plan);
}

uint64_t top_of(const Model& model) {
  uint64_t top = 1;
  for (const LayerTable& layer : model.table.layers) top = std::max(top, layer.top);
  return top;
}

// A forward pass on a device, and what it keeps in host memory for it.
void add_device_cost(const Plan& plan, const Workload& workload, const ForwardDevice& device,
                     MemoryCost& cost) {
  const bool narrow = plan.options.compute_dtype == ComputeDtype::kBF16;
  const CudaWorkload rows{
      .rows = workload.rows, .tokens = workload.tokens, .longest_row = workload.longest_row};
  const uint64_t expert = largest_expert_bytes(plan);
  const Model& model = *plan.model;
  cost.device = (narrow ? forward_device_memory<bf16> : forward_device_memory<float>)(model, rows, expert,
                                                                                      device.memory_bytes);
  cost.fixed_bytes += kCudaHostBytes;
  // Small dense tensors as they come, and pinned in the form in which they go.
  cost.dense_bytes = 2 * device_vector_bytes(model, narrow ? sizeof(bf16) : sizeof(float));
  const uint64_t routing = workload.tokens * top_of(model) * 4 * sizeof(uint32_t);
  const uint64_t ids = workload.tokens * 4 * sizeof(uint32_t);
  const uint64_t losses = workload.tokens * (sizeof(CrossEntropy) + sizeof(int32_t) + 2 * sizeof(float));
  cost.forward_bytes =
      routing + ids + losses + (cost.device.streams_resident ? 0 : cost.device.streams_bytes);
}

}  // namespace

uint64_t largest_expert_bytes(const Plan& plan) {
  uint64_t most = 0;
  for (const Stage& stage : plan.stages) {
    for (const PlannedGroup& group : stage.groups)
      if (group.expert) most = std::max(most, stored_bytes(group));
  }
  return most;
}

namespace {

// Of a source on a server: what is held of its files (headers, and what the plan has looked at), and
// connections with their buffers.
uint64_t remote_bytes(const Checkpoint& source) {
  constexpr uint64_t kConnections = 32 * kMiB, kLookedAt = 48 * kMiB;
  uint64_t headers = 0;
  for (const Shard& shard : source.shards()) headers += shard.data_offset;
  return kConnections + std::min<uint64_t>(kMostHeldBytes, headers + kLookedAt);
}

}  // namespace

MemoryCost memory_cost(const Checkpoint& source, const Plan& plan, const Workload& workload, size_t threads,
                       uint64_t limit_bytes, const ForwardDevice& device, bool writes) {
  MemoryCost cost;
  cost.fixed_bytes = kProgramBytes + (source.tensors().size() + plan.tensors.size()) * kBytesPerTensor;
  if (is_address(source.folder())) cost.fixed_bytes += remote_bytes(source);
  cost.make_bytes = make_bytes(plan, threads);
  // What was read, in the record, and as it is written again.
  if (plan.needs_second_moments()) cost.fixed_bytes += moment_counts(*plan.model).all * 4 * sizeof(float);
  const bool on_device = device.cuda && workload.tokens > 0;
  if (on_device) {
    add_device_cost(plan, workload, device, cost);
  } else if (workload.tokens > 0) {
    const bool narrow = plan.options.compute_dtype == ComputeDtype::kBF16;
    cost.forward_bytes =
        (narrow ? forward_memory_bytes<bf16> : forward_memory_bytes<float>)(*plan.model, workload.tokens,
                                                                            workload.longest_row, threads);
    for (const Stage& stage : plan.stages) {
      if (stage.layer) cost.dense_bytes = std::max(cost.dense_bytes, dense_bytes(plan, stage));
    }
  }
  if (workload.tokens > 0 && plan.options.second_moments) {
    // Sums of a layer; means in the record, the journal's state and entry, and the file as it is written.
    const MomentCounts moments = moment_counts(*plan.model);
    cost.forward_bytes += moments.largest_layer * 5 * sizeof(double) + moments.all * 4 * sizeof(float);
  }
  if (workload.tokens > 0)
    cost.forward_bytes += std::min(kSaveStreamsBytes, work_cost(plan, workload).streams_bytes);
  const uint64_t read_unit = std::max(plan.largest_source_bytes, kLeastUnit) + kMiB;
  const uint64_t write_unit = std::max(plan.largest_made_bytes, kLeastUnit) + kMiB;
  const uint64_t others = cost.peak_bytes();
  uint64_t read_units = on_device ? kUnitsToDevice : kUnitsUnderWay;
  uint64_t write_units = writes ? kUnitsUnderWay : 0;
  const auto buffers = [&] { return read_units * read_unit + write_units * write_unit; };
  while (read_units > std::max<uint64_t>(write_units, 1) && others + buffers() > limit_bytes) --read_units;
  while (write_units > 1 && others + buffers() > limit_bytes) read_units = --write_units;
  cost.read_units = read_units;
  cost.read_bytes = read_units * read_unit;
  cost.write_bytes = write_units * write_unit;
  // Texts are read before anything of this is there.
  if (workload.tokens > 0) cost.fixed_bytes += kReadingBytes - std::min(kReadingBytes, cost.peak_bytes());
  return cost;
}

uint64_t available_memory() {
  const MemoryRoom room = memory_room();
  return std::min(room.system_bytes, room.cgroup_bytes);
}

std::optional<DiskRates> probe_disk(FileSystem& files, const std::filesystem::path& path) {
  constexpr uint64_t kProbeBytes = 256 * kMiB, kRequest = 8 * kMiB;
  const Buffer buffer(kRequest);
  std::fill(buffer.bytes().begin(), buffer.bytes().end(), std::byte{0x5a});
  const auto rate = [&](const auto& request) {
    const auto start = std::chrono::steady_clock::now();
    for (uint64_t at = 0; at < kProbeBytes; at += kRequest) request(at);
    return static_cast<double>(kProbeBytes) / seconds_since(start);
  };
  try {
    const auto file = files.open_unnamed(path);
    if (!file) return std::nullopt;
    const double write = rate([&](uint64_t at) { file->write(at, buffer.bytes()); });
    const double read = rate([&](uint64_t at) { file->read(at, buffer.bytes()); });
    return DiskRates{.read_bytes_per_second = read, .write_bytes_per_second = write};
  } catch (const Error&) {  // no estimate is no reason not to run
    return std::nullopt;
  }
}

namespace {

template <class T>
double product_rate() {
  constexpr size_t kK = 2048, kN = 64, kTasks = 64;
  constexpr double kProbeSeconds = 0.2;
  const std::vector<T> x(kTileRows * kK, from_float<T>(0.5f)), w(kN * kK, from_float<T>(0.25f));
  const TileShape shape{.m = kTileRows, .n = kN, .k = kK};
  const auto run = [&] {
    parallel_for(kTasks, [&](size_t) {
      std::vector<float> y(kTileRows * kN);
      matmul_tile(shape, x.data(), kK, w.data(), kK, y.data());
    });
  };
  run();  // makes the kernels
  const auto start = std::chrono::steady_clock::now();
  double seconds = 0, runs = 0;
  // A shorter time is that of a moment in which somebody else computed, or nobody.
  for (; seconds < kProbeSeconds; seconds = seconds_since(start), ++runs) run();
  return 2.0 * runs * kTasks * kTileRows * kN * kK / seconds;
}

}  // namespace

ComputeRates probe_compute(ComputeDtype dtype, const ForwardDevice& device) {
  const bool narrow = dtype == ComputeDtype::kBF16;
  if (device.cuda) return narrow ? probe_device<bf16>(device) : probe_device<float>(device);
  return {.flops_per_second = narrow ? product_rate<bf16>() : product_rate<float>()};
}

double estimated_seconds(const Plan& plan, const Workload& workload, const DiskRates& disk,
                         const ComputeRates& rates) {
  const double read = static_cast<double>(plan.source_bytes) / disk.read_bytes_per_second;
  const double write = static_cast<double>(plan.output_bytes) / disk.write_bytes_per_second;
  const double compute = workload.tokens > 0 ? static_cast<double>(workload.tokens) * plan.flops_per_token /
                                                   rates.flops_per_second
                                             : 0;
  const double bus = workload.tokens > 0 && rates.bus_bytes_per_second > 0
                         ? static_cast<double>(plan.source_bytes) / rates.bus_bytes_per_second
                         : 0;
  return std::max({read, write, compute, bus});
}

WorkCost work_cost(const Plan& plan, const Workload& workload) {
  // An expert's entry with six tensors and three scalars is 500 bytes long; a layer's holds four numbers of
  // at most ten digits for each expert.
  WorkCost cost{.journal_bytes = kMiB + plan.tensors.size() * 100, .streams_bytes = 0};
  if (workload.tokens == 0) return cost;
  cost.journal_bytes += plan.layers() * (plan.model->table.most_experts() * 48 + 4096);
  cost.journal_bytes += workload.tokens * sizeof(int32_t) + workload.rows * sizeof(uint64_t);  // the rows
  cost.streams_bytes = workload.tokens * plan.model->carried_width() *
                       (plan.options.compute_dtype == ComputeDtype::kBF16 ? sizeof(bf16) : sizeof(float));
  return cost;
}

uint64_t checkpoint_interval(const Plan& plan, const Workload& workload, const DiskRates& disk,
                             const ComputeRates& compute) {
  constexpr double kShare = 0.03;
  const uint64_t layers = plan.layers();
  const double save =
      static_cast<double>(work_cost(plan, workload).streams_bytes) / disk.write_bytes_per_second;
  const double layer = estimated_seconds(plan, workload, disk, compute) / static_cast<double>(layers);
  const double interval = std::ceil(save / (kShare * layer));
  return interval < static_cast<double>(layers) ? std::max<uint64_t>(1, static_cast<uint64_t>(interval))
                                                : layers;
}

std::vector<Finding> check_memory(const MemoryCost& cost, uint64_t limit_bytes) {
  if (cost.peak_bytes() <= limit_bytes) return {};
  const bool forward = cost.forward_bytes > 0;
  return {{.severity = Severity::kRefusal,
           .reason = "the run " + shortage_text(cost.peak_bytes(), "of memory and may use", limit_bytes),
           .remedy =
               forward ? "raise --memory, or calibrate with fewer or shorter rows (--calib-size, --calib-seq)"
                       : "raise --memory"}};
}

std::vector<Finding> check_device_memory(const CudaMemory& memory, uint64_t limit_bytes) {
  if (memory.peak_bytes() <= limit_bytes) return {};
  return {
      {.severity = Severity::kRefusal,
       .reason = "the forward pass " +
                 shortage_text(memory.peak_bytes(), "of the GPU's memory and may use", limit_bytes),
       .remedy = "calibrate with fewer or shorter rows (--calib-size, --calib-seq), or with --device cpu"}};
}

std::vector<Finding> check_disk(uint64_t needed_bytes, uint64_t free_bytes,
                                const std::filesystem::path& folder) {
  if (needed_bytes <= free_bytes) return {};
  return {{.severity = Severity::kRefusal,
           .reason = "the job " +
                     shortage_text(needed_bytes, "of disk, and " + folder.string() + " has", free_bytes),
           .remedy = "free some space, or name a destination on another disk"}};
}

}  // namespace nibblecast
