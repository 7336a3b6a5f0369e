// pipeline/group_maker.h - makes the weights of a planned group from what the source stores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "formats/mxfp4_to_nvfp4.h"
#include "formats/nonfinite.h"
#include "formats/nvfp4_quantize.h"
#include "formats/stored_linear.h"
#include "model/forward_pass.h"
#include "plan/plan.h"

namespace nibblecast {

// What there is to say of a weight that was made.
struct MadeCounts {
  CastCounts blocks;         // kCastWeight, and kNvfp4Weight that was cast (PlannedLinear::try_cast)
  RowLoss loss;              // other kNvfp4Weight: sums over the tensor, rows ascending
  uint64_t inexact = 0;      // kWideWeight: BF16 values that were rounded
  NonFinite nonfinite = {};  // kKeep
};

// Rows [row, row + count) of a linear: the source's bytes of these rows, and where the output's go. Weights
// that need an amax or a group's scale come whole.
struct LinearTask {
  const PlannedLinear* linear = nullptr;
  StoredLinear source;
  uint64_t first_row = 0;  // of source.rows, in the tensor
  std::span<std::byte> weight, block_scale;
  std::vector<float> channel_weights = {};  // [cols]: of WeightMethod::kWmse (Nvfp4Quantizer::encode)
};

struct MadeLinear {
  float weight_scale = 1;  // weight_scale_2 of NVFP4, weight_scale of FP8
  MadeCounts counts;
};

// Which code does it: what a run uses, or the plain definitions that it is held against.
enum class Kernels { kFast, kReference };

// Makes the linears of a group that become NVFP4 (Make::kNvfp4Weight) elsewhere than on the CPU: the same
// bytes, sums and errors. See device_group_maker.h.
class Nvfp4Maker {
 public:
  virtual ~Nvfp4Maker() = default;
  // made[i] is of tasks[i]; tasks of other makes are left alone. All of its group with the same share are
  // there.
  virtual void make(std::span<const LinearTask> tasks, std::span<MadeLinear> made) = 0;
};

// Device memory for values, unless one row is larger: the second-level caches of large devices hold them.
inline constexpr uint64_t kDeviceValuesBytes = 32 << 20;

// What the one of a CUDA device allocates; 0 where the plan quantizes nothing to NVFP4, and in builds without
// CUDA.
struct DeviceMakeCost {
  uint64_t device_bytes = 0, pinned_bytes = 0;
};
DeviceMakeCost device_make_cost(const Plan& plan, uint64_t values_bytes = kDeviceValuesBytes);

// Null where there is nothing for the device to make.
std::unique_ptr<Nvfp4Maker> make_device_maker(const Checkpoint& source, const Plan& plan,
                                              const ForwardDevice& device);

// All linears of a group; NVFP4 by `nvfp4`, unless null. Errors, kBadInput with tensor and place: a value or
// scale that is not finite; kRefused: NVFP4 that is not exactly MXFP4. Bytes do not depend on threads.
std::vector<MadeLinear> make_group(const Checkpoint& source, const Plan& plan,
                                   std::span<const LinearTask> tasks, Kernels kernels = Kernels::kFast,
                                   Nvfp4Maker* nvfp4 = nullptr);

// What every maker of NVFP4 says of a value at row * cols + col of the task's source that is not finite, and
// of what its rows lost.
[[noreturn]] void refuse_value(const Checkpoint& source, const LinearTask& task, size_t position);
RowLoss total_loss(std::span<const RowLoss> rows);

// Refuses E8M0 byte 255 in the scales of MXFP4 weights, before anything is computed from them.
void check_group(const Checkpoint& source, const PlannedGroup& group, uint64_t first_row,
                 std::span<const StoredLinear> views);

}  // namespace nibblecast
