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
#include "ops/product_isa.h"
#include "pipeline/calibration_pass.h"
#include "pipeline/committer.h"
#include "pipeline/reader.h"
#include "pipeline/saved_streams.h"
#include "pipeline/units.h"
#include "pipeline/writer.h"

namespace nibblecast {
namespace {

constexpr size_t kRowsPerTask = 128;  // of an expert, cast by one thread

class Run {
 public:
  Run(const Checkpoint& source, const Plan& plan, const Activations& activations, Job& job,
      const RunOptions& options, const std::filesystem::path* destination)
      : source_(source),
        plan_(plan),
        activations_(activations),
        job_(job),
        options_(options),
        durable_(job.state().tensors) {
    record_.without_tokens.resize(plan.model.num_hidden_layers);
    record_.checksums.resize(plan.tensors.size());
    if (activations.rows) resume_forward();
    if (destination != nullptr) open_output(*destination);
    take_over_durable();
    units_ = list_units(source, plan, work_);
    for (const Unit& unit : units_) total_bytes_ += unit.size_bytes();
  }

  RunRecord execute() {
    const auto start = std::chrono::steady_clock::now();
    try {
      go_through_stages();
      if (writer_) finish_shards();
      if (!options_.amax_output.empty()) save_amax();
    } catch (...) {
      if (committer_) committer_->flush_quietly();
      throw;
    }
    record_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(record_);
  }

 private:
  // The forward pass starts at the saved streams, or at the embedding; not at all where every layer is known.
  void resume_forward() {
    const JobState& state = job_.state();
    if (state.layers.size() == plan_.model.num_hidden_layers) return;
    pass_.emplace(source_, plan_, activations_.rows->ids);
    work_.forward_from = 0;
    if (!state.streams) return;
    const SavedStreams& saved = *state.streams;
    if (load_streams(source_.files(), job_.work_folder(), saved, pass_->resume_at(saved.layer))) {
      work_.forward_from = saved_at_ = saved.layer;
      return;
    }
    record_.notes.push_back(fmt::format("{} is missing or damaged: the forward pass starts at layer 0 again",
                                        (job_.work_folder() / saved.file).string()));
    pass_.emplace(source_, plan_, activations_.rows->ids);
  }

  // Shards that an earlier attempt wrote into are gone on with; what is durable in one that is gone or cut is
  // lost.
  void open_output(const std::filesystem::path& destination) {
    FileSystem& files = source_.files();
    std::vector<std::unique_ptr<File>> shards;
    std::vector<bool> kept;
    for (const PlannedShard& shard : plan_.shards) {
      const std::filesystem::path path = destination / (shard.name + ".partial");
      const auto status = files.status(path);
      kept.push_back(status && !status->is_folder && status->size_bytes == shard.size_bytes);
      shards.push_back(files.open(path, kept.back() ? Access::kUpdateDirect : Access::kCreateDirect));
      shards.back()->reserve(shard.size_bytes);
      scalars_.emplace_back(shard.scalars_end - shard.scalars_begin);
    }
    files.sync_folder(destination);
    for (uint32_t shard = 0; shard < plan_.shards.size(); ++shard) {
      if (!kept[shard]) forget(shard);
    }
    writer_.emplace(std::move(shards), options_.write_memory_bytes);
    committer_.emplace(*writer_, job_.journal(), options_.commit_interval);
  }

  void forget(uint32_t shard) {
    std::vector<uint32_t> lost;
    uint64_t bytes = 0;
    for (auto it = durable_.begin(); it != durable_.end();) {
      const Tensor& tensor = plan_.tensors[it->first].out;
      if (tensor.shard != shard) {
        ++it;
        continue;
      }
      lost.push_back(it->first);
      bytes += tensor.size_bytes;
      it = durable_.erase(it);
    }
    if (lost.empty()) return;
    job_.journal().append(lost_entry(lost, bytes));
    record_.notes.push_back(fmt::format("{}.partial is gone or cut: its {} finished tensors are made again",
                                        plan_.shards[shard].name, lost.size()));
  }

  void take_over_durable() {
    for (const auto& [tensor, durable] : durable_) {
      record_.checksums[tensor] = durable.checksum;
      count(tensor, durable.blocks);
    }
    if (writer_) {
      for (const auto& [tensor, value] : job_.state().scalars) set_scalar(tensor, value);
    }
    work_.write = [this](uint32_t tensor) { return writer_ && !durable_.contains(tensor); };
  }

  void go_through_stages() {
    std::vector<std::unique_ptr<File>> files;
    std::vector<ReadUnit> reads;
    for (const Shard& shard : source_.shards()) {
      files.push_back(source_.files().open(source_.folder() / shard.name, Access::kReadDirect));
    }
    for (const Unit& unit : units_) reads.push_back(unit.reads);
    Reader reader(std::move(files), std::move(reads), options_.read_memory_bytes);
    size_t unit = 0;
    for (size_t stage = 0; stage < plan_.stages.size(); ++stage) {
      stage_ = stage;
      const bool layer_forward = plan_.stages[stage].layer && is_forward(plan_, work_, stage);
      if (layer_forward) pass_->expect_layer(*plan_.stages[stage].layer);
      bool attended = false;
      report(Phase::kRead);
      for (; unit < units_.size() && units_[unit].stage == stage; ++unit) {
        const Reader::Loaded loaded = reader.next();
        if (layer_forward && units_[unit].expert != nullptr && !attended) {
          report(Phase::kForward);
          pass_->begin_layer(*plan_.stages[stage].layer);
          attended = true;
        }
        work(units_[unit], loaded);
        record_.read_bytes += units_[unit].size_bytes();
        report(Phase::kRead);
      }
      if (plan_.stages[stage].layer) end_layer(*plan_.stages[stage].layer, layer_forward);
    }
  }

  void work(const Unit& unit, const Reader::Loaded& loaded) {
    if (unit.expert == nullptr) {
      if (unit.forward) take(unit, loaded[0]);
      if (unit.write) copy(unit, loaded[0]);
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
    if (unit.forward) {
      report(Phase::kForward);
      pass_->expert(unit.expert->expert, {views[0], views[1], views[2]});
    }
    if (unit.write) cast(*unit.expert, views, scans);
  }

  void take(const Unit& unit, std::span<const std::byte> bytes) {
    report(Phase::kForward);
    pass_->take(unit.reads[0].file, unit.reads[0].begin, bytes);
  }

  void copy(const Unit& unit, std::span<const std::byte> bytes) {
    report(Phase::kMake);
    std::vector<FileRange> ranges;
    for (const Piece& piece : unit.pieces) {
      const Tensor& out = plan_.tensors[piece.tensor].out;
      if (piece.write) ranges.push_back({out.shard, out.offset + piece.begin, piece.size_bytes});
    }
    const MergedRanges merged = merge_ranges(ranges);
    Writer::Batch batch = writer_->take(merged.ranges);
    DoneUnit done;
    uint64_t begin = 0;
    auto place = merged.places.begin();
    for (const Piece& piece : unit.pieces) {
      const auto part = bytes.subspan(begin, piece.size_bytes);
      begin += piece.size_bytes;
      if (!piece.write) continue;
      std::memcpy(batch[place->range].data() + place->offset, part.data(), part.size());
      ++place;
      add_kept(piece, part, done);
    }
    submit(std::move(batch), std::move(done));
  }

  // Pieces of a tensor come in order, one tensor after the other.
  void add_kept(const Piece& piece, std::span<const std::byte> bytes, DoneUnit& done) {
    if (piece.begin == 0) kept_hash_ = Hash();
    kept_hash_.add(bytes);
    if (piece.begin + piece.size_bytes < plan_.tensors[piece.tensor].out.size_bytes) return;
    done.tensors.push_back({piece.tensor, {.checksum = kept_hash_.hex(), .blocks = {}}});
  }

  // The batch holds the last bytes of `done`'s tensors.
  void submit(Writer::Batch batch, DoneUnit done) {
    std::vector<uint32_t> shards;
    for (const DoneTensor& tensor : done.tensors) {
      const Tensor& out = plan_.tensors[tensor.tensor].out;
      record_.checksums[tensor.tensor] = tensor.is.checksum;
      done.size_bytes += out.size_bytes;
      if (std::ranges::find(shards, out.shard) == shards.end()) shards.push_back(out.shard);
    }
    const uint64_t number = writer_->submit(std::move(batch));
    if (done.tensors.empty()) return;
    done.stage = stage_name();
    committer_->add(number, std::move(shards), done_entry(done));
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
    report(Phase::kMake);
    CastScan gate_up = scans[0];
    gate_up.merge(scans[2]);
    const std::array<CastScan, 3> groups = {gate_up, scans[1], gate_up};

    std::array<uint32_t, 6> outputs;
    std::array<FileRange, 6> ranges;
    for (size_t slot = 0; slot < 3; ++slot) {
      outputs[slot] = expert.linears[slot].weight;
      outputs[3 + slot] = expert.linears[slot].block_scale;
    }
    std::ranges::transform(outputs, ranges.begin(), [&](uint32_t tensor) {
      const Tensor& out = plan_.tensors[tensor].out;
      return FileRange{out.shard, out.offset, out.size_bytes};
    });
    const MergedRanges merged = merge_ranges(ranges);
    Writer::Batch batch = writer_->take(merged.ranges);
    const auto output = [&](size_t index) {
      const Place& place = merged.places[index];
      return batch[place.range].subspan(place.offset, ranges[index].size_bytes);
    };
    DoneUnit done;
    for (const uint32_t tensor : outputs) done.tensors.push_back({tensor, {}});
    for (size_t slot = 0; slot < 3; ++slot) {
      const CastCounts counts =
          cast_linear(views[slot], groups[slot].k_max(), reinterpret_cast<uint8_t*>(output(slot).data()),
                      reinterpret_cast<uint8_t*>(output(3 + slot).data()));
      count(outputs[slot], counts);
      done.tensors[slot].is.blocks = counts;
      const uint32_t scale_2 = expert.linears[slot].weight_scale_2;
      set_scalar(scale_2, groups[slot].scale_2());
      done.scalars.emplace_back(scale_2, groups[slot].scale_2());
    }
    parallel_for(outputs.size(),
                 [&](size_t index) { done.tensors[index].is.checksum = checksum_of(output(index)); });
    submit(std::move(batch), std::move(done));
  }

  static std::string checksum_of(std::span<const std::byte> bytes) {
    Hash hash;
    hash.add(bytes);
    return hash.hex();
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

  void count(uint32_t weight, const CastCounts& counts) {
    record_.blocks.merge(counts);
    if (counts.outside_window > 0) {
      record_.outside_window[plan_.tensors[weight].out.name] = counts.outside_window;
    }
  }

  void set_scalar(uint32_t index, float value) {
    const Tensor& tensor = plan_.tensors[index].out;
    const uint64_t at = tensor.offset - plan_.shards[tensor.shard].scalars_begin;
    std::memcpy(scalars_[tensor.shard].data() + at, &value, sizeof value);
  }

  void end_layer(uint64_t layer, bool forward) {
    if (forward) {
      report(Phase::kForward);
      finish_forward(layer);
    } else if (activations_.rows) {
      record_.layers.push_back(job_.state().layers.at(layer));
    } else {
      record_.layers.push_back(layer_of(*activations_.amax, layer));
    }
    const LayerInputScales scales =
        layer_input_scales(plan_, layer, record_.layers.back().experts, activations_.origin);
    record_.without_tokens[layer] = scales.without_tokens;
    if (!writer_) return;
    for (const PlannedExpert& expert : plan_.stages[stage_].experts) {
      set_scalar(expert.linears[0].input_scale, scales.w13[expert.expert]);
      set_scalar(expert.linears[1].input_scale, scales.w2[expert.expert]);
      set_scalar(expert.linears[2].input_scale, scales.w13[expert.expert]);
    }
  }

  void finish_forward(uint64_t layer) {
    record_.layers.push_back(pass_->end_layer());
    const auto before = job_.state().layers.find(layer);
    if (before != job_.state().layers.end() && before->second != record_.layers.back()) {
      throw Error(
          ErrorKind::kInternal, {.file = job_.work_folder().string()},
          fmt::format("layer {} gives other activations than before the interruption", layer),
          {.hint = "is this the same machine, and is its memory sound? Begin again in another folder"});
    }
    job_.journal().append(layer_entry(record_.layers.back()));
    if (!options_.amax_output.empty()) save_amax();
    const uint64_t next = layer + 1;
    if (next == plan_.model.num_hidden_layers || next - saved_at_ < options_.checkpoint_every) return;
    report(Phase::kSaveStreams);
    const SavedStreams saved = save_streams(source_.files(), job_.work_folder(), next, pass_->streams());
    job_.journal().append(streams_entry(saved));
    remove_streams(source_.files(), job_.work_folder(), saved.file);
    saved_at_ = next;
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

  std::string stage_name() const {
    const std::optional<uint64_t> layer = plan_.stages[stage_].layer;
    return layer ? fmt::format("layer {}", *layer) : stage_ == 0 ? "embedding" : "rest";
  }

  void report(Phase phase) const {
    if (!options_.progress) return;
    options_.progress({.phase = phase,
                       .stage = stage_name(),
                       .stages_done = stage_,
                       .stages = plan_.stages.size(),
                       .bytes_done = record_.read_bytes,
                       .bytes = total_bytes_});
  }

  void finish_shards() {
    report(Phase::kFinish);
    writer_->wait();
    committer_->flush();
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
    for (uint32_t index = 0; index < plan_.tensors.size(); ++index) finish_checksum(index);
    record_.written_bytes = writer_->written_bytes();
  }

  // Of tensors that no unit makes: scalars, and tensors without elements.
  void finish_checksum(uint32_t index) {
    const Tensor& tensor = plan_.tensors[index].out;
    const PlannedShard& shard = plan_.shards[tensor.shard];
    if (tensor.size_bytes == 0) {
      record_.checksums[index] = Hash().hex();
    } else if (tensor.offset >= shard.scalars_begin && tensor.offset < shard.scalars_end) {
      record_.checksums[index] = checksum_of(
          std::span(scalars_[tensor.shard]).subspan(tensor.offset - shard.scalars_begin, tensor.size_bytes));
    }
  }

  const Checkpoint& source_;
  const Plan& plan_;
  const Activations& activations_;
  Job& job_;
  const RunOptions& options_;
  std::unordered_map<uint32_t, DurableTensor>& durable_;  // before this attempt
  Work work_;
  std::optional<CalibrationPass> pass_;
  uint64_t saved_at_ = 0;                        // layer that the saved streams enter
  std::vector<std::vector<std::byte>> scalars_;  // [shard]: the bytes between header and the rest
  std::optional<Writer> writer_;
  std::optional<Committer> committer_;
  std::vector<Unit> units_;
  size_t stage_ = 0;
  Hash kept_hash_;  // of the kept tensor in progress
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

Json run_identity(const Checkpoint& source, const Plan& plan, const Activations& activations) {
  Json identity = plan_identity(plan, source, activations.identity);
  if (activations.rows) identity["products"] = product_isa();
  return identity;
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

RunRecord calibrate(const Checkpoint& source, const Plan& plan, const Activations& activations, Job& job,
                    const RunOptions& options) {
  return Run(source, plan, activations, job, options, nullptr).execute();
}

RunRecord quantize(const Checkpoint& source, const Plan& plan, const Activations& activations, Job& job,
                   const std::filesystem::path& destination, const RunOptions& options) {
  return Run(source, plan, activations, job, options, &destination).execute();
}

}  // namespace nibblecast
