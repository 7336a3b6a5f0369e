#include "pipeline/group_maker.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "base/parallel.h"
#include "formats/fp8_quantize.h"
#include "formats/nvfp4_to_mxfp4.h"
#include "pipeline/mxfp4_views.h"
#include "plan/cost.h"

namespace nibblecast {
namespace {

uint8_t* bytes_at(std::span<std::byte> bytes, uint64_t offset) {
  return reinterpret_cast<uint8_t*>(bytes.data()) + offset;
}

class GroupMaker {
 public:
  GroupMaker(const Checkpoint& source, const Plan& plan, std::span<const LinearTask> tasks, Kernels kernels,
             Nvfp4Maker* nvfp4)
      : source_(source),
        plan_(plan),
        tasks_(tasks),
        reference_(kernels == Kernels::kReference),
        nvfp4_(nvfp4),
        mxfp4_(plan, tasks, kernels),
        made_(tasks.size()) {}

  std::vector<MadeLinear> make() {
    if (nvfp4_ != nullptr) make_elsewhere();
    for (size_t index = 0; index < tasks_.size(); ++index) make(index);
    return std::move(made_);
  }

 private:
  Make make_of(size_t index) const { return plan_.tensors[tasks_[index].linear->weight].make; }

  // All but what is cast, and stacks.
  void make_elsewhere() {
    std::vector<LinearTask> tasks;
    std::vector<size_t> places;
    for (size_t index = 0; index < tasks_.size(); ++index) {
      if (mxfp4_[index] || tasks_[index].linear->stack != 0) continue;
      tasks.push_back(tasks_[index]);
      places.push_back(index);
    }
    std::vector<MadeLinear> made(tasks.size());
    nvfp4_->make(tasks, made);
    for (size_t i = 0; i < places.size(); ++i) made_[places[i]] = made[i];
  }

  void make(size_t index) {
    if (mxfp4_[index]) return cast(index);
    switch (make_of(index)) {
      case Make::kKeep:
        keep(index);
        return;
      case Make::kNvfp4Weight:
        if (nvfp4_ == nullptr || tasks_[index].linear->stack != 0) quantize(index);
        return;
      case Make::kFp8Weight:
        quantize_fp8(index);
        return;
      case Make::kFp8BlockWeight:
        quantize_fp8_blocks(index);
        return;
      case Make::kWideWeight:
        return make_wide(index);
      case Make::kMxfp4Weight:
        cast_back(index);
        return;
      default:
        return;  // scales are no weights; what is cast was made above
    }
  }

  void make_wide(size_t index) {
    switch (plan_.tensors[tasks_[index].linear->weight].out.dtype) {
      case Dtype::kBF16:
        return widen<bf16>(index);
      case Dtype::kF16:  // of a stack in F16, whose matrices stand for themselves
        return keep(index);
      default:
        return widen<float>(index);
    }
  }

  size_t cols(size_t index) const { return cols_of(tasks_[index].source); }

  // f(first row, rows) over the linear, in parallel.
  template <class F>
  void for_rows(size_t index, const F& f) const {
    const size_t rows = rows_of(tasks_[index].source);
    parallel_for((rows + kRowsPerTask - 1) / kRowsPerTask, [&](size_t task) {
      const size_t row = task * kRowsPerTask;
      f(row, std::min(kRowsPerTask, rows - row));
    });
  }

  // T: bf16, or float where that would round them.
  template <class T>
  std::span<const T> read_rows(size_t index, size_t row, size_t rows) const {
    thread_local std::vector<T> values;
    values.resize(rows * cols(index));
    read_rows(index, row, rows, values.data());
    return values;
  }

  template <class T>
  DequantizeReport read_rows(size_t index, size_t row, size_t rows, T* values) const {
    const StoredLinear& source = tasks_[index].source;
    const DequantizeReport report = reference_ ? dequantize_rows_ref(source, row, rows, values, cols(index))
                                               : dequantize_rows(source, row, rows, values, cols(index));
    if (report.non_finite) refuse_value(source_, tasks_[index], *report.non_finite);
    return report;
  }

  void keep(size_t index) {
    const LinearTask& task = tasks_[index];
    const auto copy = [](const void* from, std::span<std::byte> to) {
      if (!to.empty()) std::memcpy(to.data(), from, to.size());
    };
    std::visit(
        [&](const auto& view) {
          using View = std::decay_t<decltype(view)>;
          if constexpr (kIsPlainView<View>) {
            copy(view.values, task.weight);
          } else if constexpr (std::is_same_v<View, Nvfp4View>) {
            copy(view.codes, task.weight), copy(view.block_scales, task.block_scale);
          } else {
            copy(view.codes, task.weight), copy(view.scales, task.block_scale);
          }
        },
        task.source);
  }

  // The largest scale of all linears that share it.
  CastScan shared_scan(size_t index) const {
    CastScan scan;
    for (size_t other = 0; other < tasks_.size(); ++other) {
      if (tasks_[other].linear->share != tasks_[index].linear->share) continue;
      const Mxfp4View& view = *mxfp4_[other];
      scan.merge(scan_scales(view.scales, view.rows * view.cols / 32));
    }
    return scan;
  }

  void cast(size_t index) {
    const LinearTask& task = tasks_[index];
    const Mxfp4View& view = *mxfp4_[index];
    const CastScan scan = shared_scan(index);
    std::vector<CastCounts> counts((view.rows + kRowsPerTask - 1) / kRowsPerTask);
    for_rows(index, [&](size_t row, size_t rows) {
      const auto kernel = reference_ ? cast_mxfp4_to_nvfp4_ref : cast_mxfp4_to_nvfp4;
      counts[row / kRowsPerTask] = kernel(view, row, rows, scan.k_max(), plan_.options.negative_zero,
                                          bytes_at(task.weight, row * view.cols / 2),
                                          bytes_at(task.block_scale, row * view.cols / 16));
    });
    made_[index].weight_scale = scan.scale_2();
    for (const CastCounts& part : counts) made_[index].counts.blocks.merge(part);
  }

  // NVFP4 is made of the values themselves, FP8 of BF16's.
  bool is_wide(size_t index) const {
    return make_of(index) == Make::kNvfp4Weight && !is_bf16(tasks_[index].source);
  }

  float amax(size_t index) const { return is_wide(index) ? amax<float>(index) : amax<bf16>(index); }
  template <class T>
  float amax(size_t index) const {
    std::vector<float> parts((rows_of(tasks_[index].source) + kRowsPerTask - 1) / kRowsPerTask);
    for_rows(index, [&](size_t row, size_t rows) {
      const std::span<const T> values = read_rows<T>(index, row, rows);
      parts[row / kRowsPerTask] = scan_amax(values.data(), values.size()).amax;
    });
    return *std::max_element(parts.begin(), parts.end());
  }

  // Computed with the first linear of those that share it.
  float shared_amax(size_t index) {
    const uint8_t share = tasks_[index].linear->share;
    if (share >= amax_of_share_.size()) amax_of_share_.resize(share + 1u);
    std::optional<float>& known = amax_of_share_[share];
    if (known) return *known;
    known = 0.0f;
    for (size_t other = 0; other < tasks_.size(); ++other) {
      if (tasks_[other].linear->share == share) known = std::max(*known, amax(other));
    }
    return *known;
  }

  void quantize(size_t index) { is_wide(index) ? quantize<float>(index) : quantize<bf16>(index); }
  template <class T>
  void quantize(size_t index) {
    const LinearTask& task = tasks_[index];
    const Nvfp4Quantizer quantizer(task.linear->method, shared_amax(index));
    std::vector<RowLoss> losses(rows_of(task.source));
    for_rows(index, [&](size_t row, size_t rows) {
      const auto kernel = reference_ ? &Nvfp4Quantizer::encode_ref<T> : &Nvfp4Quantizer::encode<T>;
      (quantizer.*kernel)(read_rows<T>(index, row, rows).data(), rows, cols(index),
                          bytes_at(task.weight, row * cols(index) / 2),
                          bytes_at(task.block_scale, row * cols(index) / 16), &losses[row],
                          task.channel_weights.empty() ? nullptr : task.channel_weights.data());
    });
    made_[index].weight_scale = quantizer.scale_2();
    made_[index].counts.loss = total_loss(losses);
  }

  void quantize_fp8(size_t index) {
    const LinearTask& task = tasks_[index];
    const float scale = fp8_tensor_scale(shared_amax(index));
    for_rows(index, [&](size_t row, size_t rows) {
      const std::span<const bf16> values = read_rows<bf16>(index, row, rows);
      const auto kernel = reference_ ? encode_fp8_tensor_ref : encode_fp8_tensor;
      kernel(values.data(), values.size(), scale, bytes_at(task.weight, row * cols(index)));
    });
    made_[index].weight_scale = scale;
  }

  void quantize_fp8_blocks(size_t index) {
    const LinearTask& task = tasks_[index];
    const Tensor& scales = plan_.tensors[task.linear->block_scale].out;
    const Dtype dtype = scales.dtype;
    constexpr uint64_t tile_rows = 128, tile_cols = 128;  // the only ones that are written
    const uint64_t scale_row_bytes = (cols(index) + tile_cols - 1) / tile_cols * dtype_bytes(dtype);
    const size_t rows_of_task = std::max<size_t>(kRowsPerTask / tile_rows, 1) * tile_rows;
    const size_t all_rows = rows_of(task.source);
    parallel_for((all_rows + rows_of_task - 1) / rows_of_task, [&](size_t part) {
      const size_t row = part * rows_of_task, rows = std::min(rows_of_task, all_rows - row);
      const auto kernel = reference_ ? quantize_fp8_tiles_ref : quantize_fp8_tiles;
      kernel(read_rows<bf16>(index, row, rows).data(),
             {.rows = rows,
              .cols = cols(index),
              .tile_rows = tile_rows,
              .tile_cols = tile_cols,
              .scale_type = dtype == Dtype::kF32 ? ScaleType::kF32 : ScaleType::kE8M0},
             bytes_at(task.weight, row * cols(index)),
             bytes_at(task.block_scale, row / tile_rows * scale_row_bytes));
    });
  }

  template <class T>
  void widen(size_t index) {
    const LinearTask& task = tasks_[index];
    std::vector<uint64_t> inexact((rows_of(task.source) + kRowsPerTask - 1) / kRowsPerTask);
    for_rows(index, [&](size_t row, size_t rows) {
      // The output's place need not be aligned.
      thread_local std::vector<T> values;
      values.resize(rows * cols(index));
      inexact[row / kRowsPerTask] = read_rows(index, row, rows, values.data()).inexact;
      std::memcpy(bytes_at(task.weight, row * cols(index) * sizeof(T)), values.data(),
                  values.size() * sizeof(T));
    });
    for (const uint64_t part : inexact) made_[index].counts.inexact += part;
  }

  void cast_back(size_t index) {
    const LinearTask& task = tasks_[index];
    const auto& view = std::get<Nvfp4View>(task.source);
    std::vector<std::optional<MxfpMisfit>> misfits((view.rows + kRowsPerTask - 1) / kRowsPerTask);
    for_rows(index, [&](size_t row, size_t rows) {
      misfits[row / kRowsPerTask] = cast_nvfp4_to_mxfp4(view, row, rows, ZeroBlocks::kByScale,
                                                        bytes_at(task.weight, row * view.cols / 2),
                                                        bytes_at(task.block_scale, row * view.cols / 32));
    });
    for (const auto& misfit : misfits) {
      if (misfit) refuse_misfit(index, *misfit);
    }
  }

  [[noreturn]] void refuse_misfit(size_t index, const MxfpMisfit& misfit) const {
    static constexpr const char* kReasons[] = {
        "its weight_scale_2 is no power of two", "the scales of its two halves differ",
        "its block scale is no power of two", "its scale is outside E8M0's range"};
    const Tensor& weight = source_.tensors()[tasks_[index].linear->source.weight.tensor];
    throw Error(
        ErrorKind::kRefused, source_.where(weight),
        fmt::format("row {}, block {} of 32 is not exactly MXFP4: {}", misfit.row, misfit.block,
                    kReasons[misfit.reason]),
        {.hint = "only weights that were cast from MXFP4 can go back; `nibblecast dequantize` gives BF16"});
  }

  const Checkpoint& source_;
  const Plan& plan_;
  std::span<const LinearTask> tasks_;
  const bool reference_;
  Nvfp4Maker* const nvfp4_;
  const Mxfp4Views mxfp4_;
  std::vector<MadeLinear> made_;
  std::vector<std::optional<float>> amax_of_share_;
};

}  // namespace

std::vector<MadeLinear> make_group(const Checkpoint& source, const Plan& plan,
                                   std::span<const LinearTask> tasks, Kernels kernels, Nvfp4Maker* nvfp4) {
  return GroupMaker(source, plan, tasks, kernels, nvfp4).make();
}

void refuse_value(const Checkpoint& source, const LinearTask& task, size_t position) {
  const Tensor& weight = source.tensors()[task.linear->source.weight.tensor];
  const size_t cols = cols_of(task.source);
  throw Error(ErrorKind::kBadInput, source.where(weight), "a value is not finite",
              {.found = fmt::format("row {}, column {}", task.first_row + position / cols, position % cols),
               .hint = "the source is damaged: fetch this shard again"});
}

RowLoss total_loss(std::span<const RowLoss> rows) {
  RowLoss sum;
  for (const RowLoss& row : rows) {
    sum.squared_error += row.squared_error;
    sum.squares += row.squares;
  }
  return sum;
}

void check_group(const Checkpoint& source, const PlannedGroup& group, uint64_t first_row,
                 std::span<const StoredLinear> views) {
  for (size_t index = 0; index < views.size(); ++index) {
    const auto* view = std::get_if<Mxfp4View>(&views[index]);
    if (view == nullptr) continue;
    const std::optional<size_t> nan = find_nan_scale(view->scales, view->rows * view->cols / 32);
    if (!nan) continue;
    const Slice& part = group.linears[index].source.scale;
    const Tensor& scale = source.tensors()[part.tensor];
    throw Error(ErrorKind::kBadInput,
                {.file = source.where(scale).file,
                 .tensor = scale.name,
                 .offset = scale.offset + part.begin + first_row * view->cols / 32 + *nan},
                "the scale is NaN (E8M0 byte 255)",
                {.hint = "the source is damaged: fetch this shard again"});
  }
}

}  // namespace nibblecast
