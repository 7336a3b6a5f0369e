#include "pipeline/device_group_maker.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "formats/nvfp4_quantize_cuda.h"
#include "formats/stored_linear_cuda.h"

namespace nibblecast {
namespace {

constexpr uint64_t kAlignment = 256;  // enough for the widest accesses, of kernels and of copies
constexpr uint64_t kAmaxBytes = 256 * sizeof(float);  // by the number of the share

// Where a linear's parts lie in the memory of its group.
struct LinearPlaces {
  uint64_t non_finite = 0, losses = 0;           // in the report
  uint64_t stored_weight = 0, stored_scale = 0;  // the source's bytes
  uint64_t weight = 0, block_scale = 0;          // the output's
};

// First the report: the amax of each share, then what scan and encoding say of each linear.
struct GroupLayout {
  std::vector<LinearPlaces> linears;
  uint64_t report_bytes = 0, size_bytes = 0;
};

bool is_nvfp4(const Plan& plan, const PlannedLinear& linear) {
  return plan.tensors[linear.weight].make == Make::kNvfp4Weight && linear.stack == 0;
}

uint64_t rows_of(const Plan& plan, const PlannedLinear& linear) {
  const Tensor& weight = plan.tensors[linear.weight].out;
  return weight.size_bytes / weight.shape.back();
}

uint64_t cols_of(const Plan& plan, const PlannedLinear& linear) {
  return plan.tensors[linear.weight].out.shape.back() * 2;
}

GroupLayout layout_of(const Plan& plan, std::span<const PlannedLinear* const> linears) {
  uint64_t end = kAmaxBytes;
  const auto take = [&](uint64_t size_bytes) {
    return std::exchange(end, round_up(end + size_bytes, kAlignment));
  };
  GroupLayout layout;
  layout.linears.resize(linears.size());
  for (size_t i = 0; i < linears.size(); ++i) {
    layout.linears[i].non_finite = take(sizeof(uint64_t));
    layout.linears[i].losses = take(rows_of(plan, *linears[i]) * sizeof(RowLoss));
  }
  layout.report_bytes = end;
  for (size_t i = 0; i < linears.size(); ++i) {
    layout.linears[i].stored_weight = take(linears[i]->source.weight.size_bytes);
    layout.linears[i].stored_scale = take(linears[i]->source.scale.size_bytes);
    layout.linears[i].weight = take(plan.tensors[linears[i]->weight].out.size_bytes);
    layout.linears[i].block_scale = take(plan.tensors[linears[i]->block_scale].out.size_bytes);
  }
  layout.size_bytes = end;
  return layout;
}

// Rows whose values are in device memory at once.
uint64_t rows_at_once(uint64_t values_bytes, uint64_t rows, uint64_t row_bytes) {
  return std::min(rows, std::max<uint64_t>(values_bytes / row_bytes, 1));
}

// Of a value while it is quantized: as BF16, or as a float where that would round it.
uint64_t value_bytes(const LinearFormat& format) {
  return is_bf16(format.view(0, nullptr, nullptr, {})) ? sizeof(bf16) : sizeof(float);
}

struct Sizes {
  uint64_t values = 0, group = 0, report = 0;
};

Sizes largest_sizes(const Plan& plan, uint64_t values_bytes) {
  Sizes sizes;
  const auto add_group = [&](const PlannedGroup& group) {
    std::vector<const PlannedLinear*> linears;
    for (const PlannedLinear& linear : group.linears) {
      if (!is_nvfp4(plan, linear)) continue;
      linears.push_back(&linear);
      const uint64_t row_bytes = cols_of(plan, linear) * value_bytes(linear.source.format);
      const uint64_t rows = rows_at_once(values_bytes, rows_of(plan, linear), row_bytes);
      sizes.values = std::max(sizes.values, rows * row_bytes);
    }
    if (linears.empty()) return;
    const GroupLayout layout = layout_of(plan, linears);
    sizes.group = std::max(sizes.group, layout.size_bytes);
    sizes.report = std::max(sizes.report, layout.report_bytes);
  };
  for (const Stage& stage : plan.stages) std::ranges::for_each(stage.groups, add_group);
  return sizes;
}

struct StoredBytes {
  const void *weight = nullptr, *scale = nullptr;
};

StoredBytes bytes_of(const StoredLinear& stored) {
  return std::visit(
      [](const auto& view) -> StoredBytes {
        using View = std::decay_t<decltype(view)>;
        if constexpr (kIsPlainView<View>)
          return {view.values, nullptr};
        else if constexpr (std::is_same_v<View, Nvfp4View>)
          return {view.codes, view.block_scales};
        else
          return {view.codes, view.scales};
      },
      stored);
}

// The same view of bytes elsewhere.
StoredLinear moved(StoredLinear stored, const uint8_t* weight, const uint8_t* scale) {
  std::visit(
      [&](auto& view) {
        using View = std::decay_t<decltype(view)>;
        if constexpr (kIsPlainView<View>)
          view.values = weight;
        else if constexpr (std::is_same_v<View, Nvfp4View>)
          view.codes = weight, view.block_scales = scale;
        else
          view.codes = weight, view.scales = scale;
      },
      stored);
  return stored;
}

}  // namespace

DeviceMakeCost device_make_cost(const Plan& plan, uint64_t values_bytes) {
  const Sizes sizes = largest_sizes(plan, values_bytes);
  return {.device_bytes = sizes.values + sizes.group, .pinned_bytes = sizes.report};
}

std::unique_ptr<Nvfp4Maker> make_device_maker(const Checkpoint& source, const Plan& plan,
                                              const ForwardDevice& device) {
  if (!device.cuda || device_make_cost(plan).device_bytes == 0) return nullptr;
  use_cuda_device(*device.cuda);
  return std::make_unique<DeviceGroupMaker>(source, plan);
}

struct DeviceGroupMaker::Linear {
  const LinearTask& task;
  MadeLinear& made;
  LinearPlaces at;
  StoredLinear stored;  // in device memory
  size_t rows, cols;

  const PlannedLinear& planned() const { return *task.linear; }
  uint64_t amax() const { return planned().share * sizeof(float); }
};

DeviceGroupMaker::DeviceGroupMaker(const Checkpoint& source, const Plan& plan, uint64_t values_bytes)
    : source_(source), plan_(plan), values_bytes_(values_bytes) {
  const Sizes sizes = largest_sizes(plan, values_bytes);
  values_ = DeviceBuffer(sizes.values);
  group_ = DeviceBuffer(sizes.group);
  report_ = pinned_buffer(sizes.report);
}

void DeviceGroupMaker::make(std::span<const LinearTask> tasks, std::span<MadeLinear> made) {
  const std::vector<Linear> linears = list_linears(tasks, made);
  if (linears.empty()) return;
  fill_async(stream_, group_.data(), 0, kAmaxBytes);
  for (const Linear& linear : linears) upload(linear);
  for (const Linear& linear : linears) scan(linear);
  for (const Linear& linear : linears) {
    encode(linear);
    download(linear);
  }
  const uint64_t report_bytes = linears.front().at.stored_weight;  // which comes next
  copy_async(stream_, report_.data(), group_.data(), report_bytes);
  stream_.synchronize();
  check_finite(linears);
  for (const Linear& linear : linears) report(linear);
}

std::vector<DeviceGroupMaker::Linear> DeviceGroupMaker::list_linears(std::span<const LinearTask> tasks,
                                                                     std::span<MadeLinear> made) const {
  std::vector<const PlannedLinear*> planned;
  for (const LinearTask& task : tasks)
    if (is_nvfp4(plan_, *task.linear)) planned.push_back(task.linear);
  const GroupLayout layout = layout_of(plan_, planned);
  std::vector<Linear> linears;
  for (size_t index = 0; index < tasks.size(); ++index) {
    const LinearTask& task = tasks[index];
    if (!is_nvfp4(plan_, *task.linear)) continue;
    const LinearPlaces& at = layout.linears[linears.size()];
    linears.push_back({.task = task,
                       .made = made[index],
                       .at = at,
                       .stored = moved(task.source, in_group<uint8_t>(at.stored_weight),
                                       in_group<uint8_t>(at.stored_scale)),
                       .rows = rows_of(plan_, *task.linear),
                       .cols = cols_of(plan_, *task.linear)});
  }
  return linears;
}

void DeviceGroupMaker::upload(const Linear& linear) {
  const StoredBytes host = bytes_of(linear.task.source);
  copy_async(stream_, in_group<uint8_t>(linear.at.stored_weight), host.weight,
             linear.planned().source.weight.size_bytes);
  copy_async(stream_, in_group<uint8_t>(linear.at.stored_scale), host.scale,
             linear.planned().source.scale.size_bytes);
}

template <class T, class F>
void DeviceGroupMaker::for_values_as(const Linear& linear, const F& f) {
  auto* values = reinterpret_cast<T*>(values_.data());
  const size_t at_once = rows_at_once(values_bytes_, linear.rows, linear.cols * sizeof(T));
  for (size_t row = 0; row < linear.rows; row += at_once) {
    const size_t rows = std::min(at_once, linear.rows - row);
    dequantize_rows_cuda(stream_, linear.stored, row, rows, values, linear.cols);
    f(values, row, rows);
  }
}

template <class F>
void DeviceGroupMaker::for_values(const Linear& linear, const F& f) {
  is_bf16(linear.stored) ? for_values_as<bf16>(linear, f) : for_values_as<float>(linear, f);
}

void DeviceGroupMaker::scan(const Linear& linear) {
  auto* non_finite = in_group<uint64_t>(linear.at.non_finite);
  fill_async(stream_, non_finite, 0xff, sizeof *non_finite);
  for_values(linear, [&](const auto* values, size_t row, size_t rows) {
    scan_amax_cuda(stream_, values, rows * linear.cols, row * linear.cols, in_group<float>(linear.amax()),
                   non_finite);
  });
}

void DeviceGroupMaker::encode(const Linear& linear) {
  for_values(linear, [&](const auto* values, size_t row, size_t rows) {
    encode_nvfp4_cuda(stream_, linear.planned().method, in_group<float>(linear.amax()), values, rows,
                      linear.cols, in_group<uint8_t>(linear.at.weight) + row * linear.cols / 2,
                      in_group<uint8_t>(linear.at.block_scale) + row * linear.cols / 16,
                      in_group<RowLoss>(linear.at.losses) + row);
  });
}

void DeviceGroupMaker::download(const Linear& linear) {
  const std::span<std::byte> weight = linear.task.weight, block_scale = linear.task.block_scale;
  copy_async(stream_, weight.data(), in_group<uint8_t>(linear.at.weight), weight.size());
  copy_async(stream_, block_scale.data(), in_group<uint8_t>(linear.at.block_scale), block_scale.size());
}

// In the order in which the CPU would come upon them: share by share.
void DeviceGroupMaker::check_finite(std::span<const Linear> linears) const {
  for (const Linear& first : linears) {
    for (const Linear& linear : linears) {
      if (linear.planned().share != first.planned().share) continue;
      const uint64_t position = *in_report<uint64_t>(linear.at.non_finite);
      if (position != kAllFinite) refuse_value(source_, linear.task, position);
    }
  }
}

void DeviceGroupMaker::report(const Linear& linear) const {
  linear.made.weight_scale = nvfp4_scale_2(linear.planned().method, *in_report<float>(linear.amax()));
  linear.made.counts.loss = total_loss({in_report<RowLoss>(linear.at.losses), linear.rows});
}

}  // namespace nibblecast
