#include "pipeline/run.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "base/hash.h"
#include "base/parallel.h"
#include "pipeline/calibration_pass.h"
#include "pipeline/extents.h"
#include "pipeline/reader.h"
#include "pipeline/writer.h"

namespace nibblecast {
namespace {

constexpr uint64_t kCopyBytes = 16 << 20;
constexpr size_t kRowsPerTask = 128;  // of an expert, cast by one thread

// One step of the work: a chunk of kept bytes, or an expert.
struct Unit {
  size_t stage = 0;
  CopyRange copy;
  const PlannedExpert* expert = nullptr;  // nullptr: copy
  ReadUnit reads;
  std::array<Place, 6> places = {};  // of the expert's weights (w1, w2, w3), then scales
  uint64_t size_bytes() const {
    uint64_t bytes = 0;
    for (const FileRange& range : reads) bytes += range.size_bytes;
    return bytes;
  }
};

class Run {
 public:
  Run(const Checkpoint& source, const Plan& plan, const Activations& activations, const RunOptions& options,
      const std::filesystem::path* destination)
      : source_(source), plan_(plan), activations_(activations), options_(options) {
    if (activations.rows) pass_.emplace(source, plan, activations.rows->ids);
    if (destination != nullptr) open_output(*destination);
    list_units();
    record_.without_tokens.resize(plan.model.num_hidden_layers);
  }

  RunRecord execute() {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::unique_ptr<File>> files;
    std::vector<ReadUnit> reads;
    for (const Shard& shard : source_.shards()) {
      files.push_back(source_.files().open(source_.folder() / shard.name, Access::kReadDirect));
    }
    for (const Unit& unit : units_) reads.push_back(unit.reads);
    Reader reader(std::move(files), std::move(reads), options_.read_memory_bytes);
    size_t unit = 0;
    for (size_t stage = 0; stage < plan_.stages.size(); ++stage) {
      begin_stage(stage);
      bool attended = false;
      for (; unit < units_.size() && units_[unit].stage == stage; ++unit) {
        if (pass_ && units_[unit].expert != nullptr && !attended) {
          pass_->begin_layer(*plan_.stages[stage].layer);
          attended = true;
        }
        work(units_[unit], reader.next());
        record_.read_bytes += units_[unit].size_bytes();
        report(stage);
      }
      end_stage(stage);
    }
    if (writer_) finish_shards();
    record_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(record_);
  }

 private:
  void open_output(const std::filesystem::path& destination) {
    std::vector<std::unique_ptr<File>> files;
    for (const PlannedShard& shard : plan_.shards) {
      files.push_back(source_.files().open(destination / (shard.name + ".partial"), Access::kCreateDirect));
      files.back()->reserve(shard.size_bytes);
      scalars_.emplace_back(shard.scalars_end - shard.scalars_begin);
    }
    writer_.emplace(std::move(files), options_.write_memory_bytes);
  }

  // The forward pass needs a layer's kept tensors first and its experts ascending; without one, the order of
  // the files is best.
  void list_units() {
    for (size_t stage = 0; stage < plan_.stages.size(); ++stage) {
      const bool needed = writer_ || (pass_ && (stage == 0 || plan_.stages[stage].layer));
      if (!needed) continue;
      const size_t begin = units_.size();
      for (const CopyRange& range : plan_.stages[stage].kept) add_copies(stage, range);
      for (const PlannedExpert& expert : plan_.stages[stage].experts) add_expert(stage, expert);
      if (pass_) continue;
      std::stable_sort(units_.begin() + begin, units_.end(), [](const Unit& a, const Unit& b) {
        return std::pair(a.reads[0].file, a.reads[0].begin) < std::pair(b.reads[0].file, b.reads[0].begin);
      });
    }
    for (const Unit& unit : units_) total_bytes_ += unit.size_bytes();
  }

  void add_copies(size_t stage, const CopyRange& range) {
    for (uint64_t done = 0; done < range.size_bytes; done += kCopyBytes) {
      const uint64_t size = std::min(kCopyBytes, range.size_bytes - done);
      Unit unit;
      unit.stage = stage;
      unit.copy = {range.shard, range.source_begin + done, range.output_begin + done, size};
      unit.reads = {{range.shard, range.source_begin + done, size}};
      units_.push_back(std::move(unit));
    }
  }

  void add_expert(size_t stage, const PlannedExpert& expert) {
    std::array<FileRange, 6> ranges;
    for (size_t slot = 0; slot < 3; ++slot) {
      ranges[slot] = range_of(source_.tensors()[expert.linears[slot].source_weight]);
      ranges[3 + slot] = range_of(source_.tensors()[expert.linears[slot].source_scale]);
    }
    MergedRanges merged = merge_ranges(ranges);
    Unit unit;
    unit.stage = stage;
    unit.expert = &expert;
    unit.reads = std::move(merged.ranges);
    std::copy_n(merged.places.begin(), 6, unit.places.begin());
    units_.push_back(std::move(unit));
  }

  static FileRange range_of(const Tensor& tensor) { return {tensor.shard, tensor.offset, tensor.size_bytes}; }

  void begin_stage(size_t stage) {
    if (pass_ && plan_.stages[stage].layer) pass_->expect_layer(*plan_.stages[stage].layer);
  }

  void work(const Unit& unit, const Reader::Loaded& loaded) {
    if (unit.expert == nullptr) {
      copy(unit.copy, loaded[0]);
      return;
    }
    std::array<Mxfp4View, 3> views;
    for (size_t slot = 0; slot < 3; ++slot) {
      const Tensor& weight = source_.tensors()[unit.expert->linears[slot].source_weight];
      const auto at = [&](const Place& place) {
        return reinterpret_cast<const uint8_t*>(loaded[place.range].data() + place.offset);
      };
      views[slot] = {.codes = at(unit.places[slot]),
                     .scales = at(unit.places[3 + slot]),
                     .rows = weight.shape[0],
                     .cols = weight.shape[1] * 2};
    }
    const std::array<CastScan, 3> scans = {scan(*unit.expert, views, 0), scan(*unit.expert, views, 1),
                                           scan(*unit.expert, views, 2)};
    if (pass_) pass_->expert(unit.expert->expert, {views[0], views[1], views[2]});
    if (writer_) cast(*unit.expert, views, scans);
  }

  void copy(const CopyRange& range, std::span<const std::byte> bytes) {
    if (pass_) pass_->take(range.shard, range.source_begin, bytes);
    if (!writer_) return;
    Writer::Batch batch = writer_->take({{range.shard, range.output_begin, range.size_bytes}});
    std::memcpy(batch[0].data(), bytes.data(), bytes.size());
    writer_->submit(std::move(batch));
  }

  // Of one projection's scales; NaN is refused before anything is computed from them.
  CastScan scan(const PlannedExpert& expert, const std::array<Mxfp4View, 3>& views, size_t slot) {
    const Tensor& scale = source_.tensors()[expert.linears[slot].source_scale];
    const CastScan found = scan_scales(views[slot].scales, scale.size_bytes);
    if (!found.nan_scale) return found;
    throw Error(
        ErrorKind::kBadInput,
        {.file = source_.where(scale).file, .tensor = scale.name, .offset = scale.offset + *found.nan_scale},
        "the scale is NaN (E8M0 byte 255)", {.hint = "the source is damaged: fetch this shard again"});
  }

  // Codes and block scales of the three projections; neighbours in the output are written as one.
  void cast(const PlannedExpert& expert, const std::array<Mxfp4View, 3>& views,
            const std::array<CastScan, 3>& scans) {
    CastScan gate_up = scans[0];
    gate_up.merge(scans[2]);
    const std::array<CastScan, 3> groups = {gate_up, scans[1], gate_up};

    std::array<FileRange, 6> ranges;
    for (size_t slot = 0; slot < 3; ++slot) {
      ranges[slot] = range_of(plan_.tensors[expert.linears[slot].weight].out);
      ranges[3 + slot] = range_of(plan_.tensors[expert.linears[slot].block_scale].out);
    }
    const MergedRanges merged = merge_ranges(ranges);
    Writer::Batch batch = writer_->take(merged.ranges);
    const auto output = [&](size_t index) {
      const Place& place = merged.places[index];
      return reinterpret_cast<uint8_t*>(batch[place.range].data() + place.offset);
    };
    for (size_t slot = 0; slot < 3; ++slot) {
      count(expert.linears[slot],
            cast_linear(views[slot], groups[slot].k_max(), output(slot), output(3 + slot)));
      set_scalar(expert.linears[slot].weight_scale_2, groups[slot].scale_2());
    }
    writer_->submit(std::move(batch));
  }

  CastCounts cast_linear(const Mxfp4View& view, int k_max, uint8_t* codes, uint8_t* block_scales) const {
    const size_t tasks = (view.rows + kRowsPerTask - 1) / kRowsPerTask;
    std::vector<CastCounts> counts(tasks);
    parallel_for(tasks, [&](size_t task) {
      const size_t row = task * kRowsPerTask;
      counts[task] = cast_mxfp4_to_nvfp4(view, row, std::min(kRowsPerTask, view.rows - row), k_max,
                                         plan_.options.negative_zero, codes + row * view.cols / 2,
                                         block_scales + row * view.cols / 16);
    });
    for (size_t task = 1; task < tasks; ++task) counts[0].merge(counts[task]);
    return counts[0];
  }

  void count(const PlannedLinear& linear, const CastCounts& counts) {
    record_.blocks.merge(counts);
    if (counts.outside_window > 0) {
      record_.outside_window[plan_.tensors[linear.weight].out.name] = counts.outside_window;
    }
  }

  void set_scalar(uint32_t index, float value) {
    const Tensor& tensor = plan_.tensors[index].out;
    const uint64_t at = tensor.offset - plan_.shards[tensor.shard].scalars_begin;
    std::memcpy(scalars_[tensor.shard].data() + at, &value, sizeof value);
  }

  void end_stage(size_t stage) {
    const std::optional<uint64_t> layer = plan_.stages[stage].layer;
    if (!layer) return;
    if (pass_) {
      record_.layers.push_back(pass_->end_layer());
      if (!options_.amax_output.empty()) save_amax();
    } else {
      record_.layers.push_back(layer_of(*activations_.amax, *layer));
    }
    const LayerInputScales scales =
        layer_input_scales(plan_, *layer, record_.layers.back().experts, activations_.origin);
    record_.without_tokens[*layer] = scales.without_tokens;
    if (!writer_) return;
    for (const PlannedExpert& expert : plan_.stages[stage].experts) {
      set_scalar(expert.linears[0].input_scale, scales.w13[expert.expert]);
      set_scalar(expert.linears[1].input_scale, scales.w2[expert.expert]);
      set_scalar(expert.linears[2].input_scale, scales.w13[expert.expert]);
    }
  }

  LayerAmax layer_of(const AmaxFile& amax, uint64_t layer) const {
    for (const LayerAmax& candidate : amax.layers) {
      if (candidate.layer == layer) return candidate;
    }
    throw Error(ErrorKind::kBadInput, {.file = activations_.origin},
                fmt::format("holds no amax of layer {}", layer),
                {.hint = "was calibration interrupted, or made for another model?"});
  }

  void save_amax() const {
    write_amax(source_.files(), options_.amax_output,
               {.metadata = amax_metadata(source_, plan_, *activations_.rows), .layers = record_.layers});
  }

  void report(size_t stage) const {
    if (!options_.progress) return;
    const std::optional<uint64_t> layer = plan_.stages[stage].layer;
    options_.progress({.stage = layer        ? fmt::format("layer {}", *layer)
                                : stage == 0 ? "embedding"
                                             : "rest",
                       .stages_done = stage,
                       .stages = plan_.stages.size(),
                       .bytes_done = record_.read_bytes,
                       .bytes = total_bytes_});
  }

  void finish_shards() {
    for (uint32_t shard = 0; shard < plan_.shards.size(); ++shard) {
      const std::string& header = plan_.shards[shard].header;
      Writer::Batch batch = writer_->take({{shard, 0, header.size() + scalars_[shard].size()}});
      std::ranges::copy(std::as_bytes(std::span(header)), batch[0].begin());
      std::ranges::copy(scalars_[shard], batch[0].begin() + static_cast<ptrdiff_t>(header.size()));
      writer_->submit(std::move(batch));
    }
    writer_->wait();
    for (uint32_t shard = 0; shard < plan_.shards.size(); ++shard) {
      writer_->file(shard).sync();
      writer_->file(shard).close();
    }
    record_.written_bytes = writer_->written_bytes();
  }

  const Checkpoint& source_;
  const Plan& plan_;
  const Activations& activations_;
  const RunOptions& options_;
  std::optional<CalibrationPass> pass_;
  std::vector<std::vector<std::byte>> scalars_;  // [shard]: the bytes between header and the rest
  std::optional<Writer> writer_;
  std::vector<Unit> units_;
  uint64_t total_bytes_ = 0;
  RunRecord record_;
};

}  // namespace

Activations Activations::from_rows(CalibrationRows rows, std::string origin) {
  Hash hash;
  for (const std::vector<int32_t>& row : rows.ids) {
    hash.add(std::to_string(row.size()) + ":");
    hash.add(std::as_bytes(std::span(row)));
  }
  return {.rows = std::move(rows), .amax = {}, .origin = std::move(origin), .identity = hash.hex()};
}

Activations Activations::from_amax(FileSystem& files, const std::filesystem::path& path) {
  constexpr uint64_t kLimit = 1 << 30;
  Hash hash;
  hash.add(read_text(files, path, kLimit));
  return {.rows = {}, .amax = read_amax(files, path), .origin = path.string(), .identity = hash.hex()};
}

std::map<std::string, std::string> amax_metadata(const Checkpoint& source, const Plan& plan,
                                                 const CalibrationRows& rows) {
  return {{"producer", "nibblecast " NIBBLECAST_VERSION},
          {"model_type", "deepseek_v4"},
          {"layers", std::to_string(plan.model.num_hidden_layers)},
          {"model", source_identity(source)},
          {"rows", std::to_string(rows.ids.size())},
          {"tokens", std::to_string(rows.tokens())},
          {"compute_dtype", std::string(compute_dtype_name(plan.options.compute_dtype))}};
}

RunRecord calibrate(const Checkpoint& source, const Plan& plan, const Activations& activations,
                    const RunOptions& options) {
  return Run(source, plan, activations, options, nullptr).execute();
}

RunRecord quantize(const Checkpoint& source, const Plan& plan, const Activations& activations,
                   const std::filesystem::path& destination, const RunOptions& options) {
  return Run(source, plan, activations, options, &destination).execute();
}

}  // namespace nibblecast
