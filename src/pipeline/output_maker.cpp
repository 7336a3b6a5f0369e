#include "pipeline/output_maker.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/parallel.h"
#include "formats/reciprocal.h"
#include "pipeline/kept_shards.h"
#include "pipeline/output.h"
#include "pipeline/stack_bytes.h"
#include "plan/linear.h"

namespace nibblecast {
namespace {

void count_made(const Plan& plan, uint32_t weight, const MadeCounts& counts, RunRecord& record) {
  const std::string& name = plan.tensors[weight].out.name;
  record.blocks.merge(counts.blocks);
  if (counts.blocks.outside_window > 0) record.outside_window[name] = counts.blocks.outside_window;
  if (plan.tensors[weight].make == Make::kNvfp4Weight && counts.blocks.blocks == 0)
    record.losses[name] = counts.loss;
  if (counts.inexact > 0) record.inexact[name] = counts.inexact;
}

// Places of a unit's weights and block scales in the output.
struct OutputPlaces {
  std::vector<uint32_t> tensors;
  std::vector<FileRange> ranges;
};

OutputPlaces places_of(const Plan& plan, const Unit& unit) {
  OutputPlaces places;
  for (const PlannedLinear& linear : unit.group->linears) {
    for (const uint32_t index : {linear.weight, linear.block_scale}) {
      if (index == kNone) continue;
      const Tensor& out = plan.tensors[index].out;
      const OutputRange range = output_rows(out, unit.first_row, unit.rows);
      places.tensors.push_back(index);
      places.ranges.push_back({out.shard, range.begin, range.size_bytes});
    }
  }
  return places;
}

}  // namespace

OutputMaker::OutputMaker(const Checkpoint& source, const Plan& plan, const Activations& activations, Job& job,
                         const RunOptions& options, const std::filesystem::path& destination,
                         RunRecord& record)
    : source_(source),
      plan_(plan),
      job_(job),
      options_(options),
      record_(record),
      durable_(job.state().tensors) {
  if (plan.needs_second_moments())
    channel_weights_.emplace(plan, activations.amax.value().layers, activations.origin);
  open(destination);
  for (const auto& [tensor, value] : job.state().scalars) set_scalar(tensor, value);
  set_constant_input_scales();
}

void OutputMaker::open(const std::filesystem::path& destination) {
  FileSystem& files = source_.files();
  const KeptShards found =
      find_kept_shards(files, plan_, destination, job_.state(), options_.read_memory_bytes,
                       [this](uint64_t done, uint64_t of) { report_read_back(done, of); });
  if (!found.lost.empty()) job_.journal().append(lost_entry(found.lost));
  for (const uint32_t tensor : found.lost) durable_.erase(tensor);
  record_.notes.insert(record_.notes.end(), found.notes.begin(), found.notes.end());
  std::vector<std::unique_ptr<File>> shards;
  for (uint32_t shard = 0; shard < plan_.shards.size(); ++shard) {
    const bool kept = found.kept[shard];
    shards.push_back(files.open(partial_path(destination, plan_.shards[shard]),
                                kept ? Access::kUpdateDirect : Access::kCreateDirect));
    if (!kept) shards.back()->reserve(plan_.shards[shard].size_bytes);
    scalars_.emplace_back(plan_.shards[shard].scalars_end - plan_.shards[shard].scalars_begin);
  }
  for (const std::filesystem::path& folder : shard_folders(plan_, destination)) files.sync_folder(folder);
  stamp_again(shards, found.read_back);
  device_maker_ = make_device_maker(source_, plan_, options_.device);
  writer_.emplace(std::move(shards), options_.write_memory_bytes);
  committer_.emplace(*writer_, job_.journal(), options_.commit_interval);
}

// What was read back need not be the next time.
void OutputMaker::stamp_again(const std::vector<std::unique_ptr<File>>& shards,
                              const std::vector<uint32_t>& read_back) {
  ShardStamps stamps;
  for (const uint32_t shard : read_back) {
    shards[shard]->sync();  // a copy that somebody put there may not be durable
    if (const auto stamp = shards[shard]->stamp()) stamps[shard] = *stamp;
  }
  if (!stamps.empty()) job_.journal().append(stamps_entry(stamps));
}

void OutputMaker::set_constant_input_scales() {
  if (plan_.options.input_scale != InputScalePolicy::kConstant) return;
  for (uint32_t index = 0; index < plan_.tensors.size(); ++index) {
    if (plan_.tensors[index].make == Make::kInputScale) set_scalar(index, plan_.options.constant_input_scale);
  }
}

void OutputMaker::copy(const Unit& unit, std::span<const std::byte> bytes, const NonFiniteCount& nonfinite,
                       std::string_view stage) {
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
    const auto to = batch[place->range].subspan(place->offset, piece.size_bytes);
    std::ranges::copy(part, to.begin());
    if (plan_.tensors[piece.tensor].reciprocal) invert(to);
    ++place;
    add_kept(piece, to, nonfinite, done);
  }
  submit(std::move(batch), std::move(done), stage);
}

// Pieces of a tensor come in order, one tensor after the other.
void OutputMaker::add_kept(const Piece& piece, std::span<const std::byte> bytes,
                           const NonFiniteCount& nonfinite, DoneUnit& done) {
  if (piece.begin == 0) kept_hash_ = Hash();
  kept_hash_.add(bytes);
  if (piece.begin + piece.size_bytes < plan_.tensors[piece.tensor].out.size_bytes) return;
  MadeCounts counts;
  counts.nonfinite = nonfinite.of(source_.tensors()[*plan_.tensors[piece.tensor].source].name);
  done.tensors.push_back({piece.tensor, {.checksum = kept_hash_.hex(), .counts = counts}});
}

// The batch holds the last bytes of `done`'s tensors.
void OutputMaker::submit(Writer::Batch batch, DoneUnit done, std::string_view stage) {
  std::vector<uint32_t> shards;
  for (DoneTensor& tensor : done.tensors) {
    const Tensor& out = plan_.tensors[tensor.tensor].out;
    tensor.is.size_bytes = out.size_bytes;
    record_.checksums[tensor.tensor] = tensor.is.checksum;
    if (std::ranges::find(shards, out.shard) == shards.end()) shards.push_back(out.shard);
  }
  const uint64_t number = writer_->submit(std::move(batch));
  if (done.tensors.empty()) return;
  done.stage = stage;
  committer_->add(number, std::move(shards), done_entry(done));
}

// Neighbours in the output are written as one.
void OutputMaker::make(const Unit& unit, std::span<const StoredLinear> views, std::string_view stage) {
  const OutputPlaces places = places_of(plan_, unit);
  const MergedRanges merged = merge_ranges(places.ranges);
  Writer::Batch batch = writer_->take(merged.ranges);
  std::vector<std::span<std::byte>> bytes;
  for (size_t index = 0; index < places.ranges.size(); ++index) {
    const Place& place = merged.places[index];
    bytes.push_back(batch[place.range].subspan(place.offset, places.ranges[index].size_bytes));
  }
  std::vector<LinearTask> tasks;
  std::vector<std::vector<std::byte>> turned(views.size());
  auto next = bytes.begin();
  for (size_t index = 0; index < views.size(); ++index) {
    const PlannedLinear& linear = unit.group->linears[index];
    LinearTask& task = tasks.emplace_back();
    task = {.linear = &linear,
            .source = by_rows(linear, views[index], turned[index]),
            .first_row = unit.first_row,
            .weight = *next++,
            .block_scale = {}};
    if (task.linear->block_scale != kNone) task.block_scale = *next++;
    if (needs_second_moments(plan_, *task.linear))
      task.channel_weights = channel_weights_->of(*task.linear, unit.group->expert);
  }
  const std::vector<MadeLinear> made = make_group(source_, plan_, tasks, Kernels::kFast, device_maker_.get());
  for (const LinearTask& task : tasks) {
    to_output(plan_, *task.linear, task.linear->weight, task.weight);
    if (task.linear->block_scale != kNone)
      to_output(plan_, *task.linear, task.linear->block_scale, task.block_scale);
  }
  DoneUnit done;
  if (unit.rows > 0) {
    add_rows(unit, places.tensors[0], bytes[0], made[0].counts, done);
  } else {
    for (const uint32_t output : places.tensors) done.tensors.push_back({output, {}});
    parallel_for(bytes.size(),
                 [&](size_t index) { done.tensors[index].is.checksum = hash_of(bytes[index]); });
    note_made(tasks, made, done);
  }
  submit(std::move(batch), std::move(done), stage);
}

void OutputMaker::note_made(std::span<const LinearTask> tasks, std::span<const MadeLinear> made,
                            DoneUnit& done) {
  for (size_t index = 0; index < tasks.size(); ++index) {
    const PlannedLinear& linear = *tasks[index].linear;
    const auto weight = std::ranges::find(done.tensors, linear.weight, &DoneTensor::tensor);
    weight->is.counts = made[index].counts;
    count(linear.weight, made[index].counts);
    if (linear.weight_scale == kNone) continue;
    set_scalar(linear.weight_scale, made[index].weight_scale);
    done.scalars.emplace_back(linear.weight_scale, made[index].weight_scale);
  }
}

// Rows of one tensor come in order, one tensor after the other.
void OutputMaker::add_rows(const Unit& unit, uint32_t tensor, std::span<const std::byte> bytes,
                           const MadeCounts& counts, DoneUnit& done) {
  if (unit.first_row == 0) rows_hash_ = Hash(), rows_counts_ = {};
  rows_hash_.add(bytes);
  rows_counts_.inexact += counts.inexact;
  if (unit.first_row + unit.rows < plan_.tensors[tensor].out.shape[0]) return;
  done.tensors.push_back({tensor, {.checksum = rows_hash_.hex(), .counts = rows_counts_}});
  count(tensor, rows_counts_);
}

void OutputMaker::count(uint32_t weight, const MadeCounts& counts) {
  count_made(plan_, weight, counts, record_);
}

void OutputMaker::set_scalar(uint32_t index, float value) {
  const Tensor& tensor = plan_.tensors[index].out;
  const float stored = plan_.tensors[index].stored(value);
  if (!std::isfinite(stored)) {
    throw Error(ErrorKind::kUnsupported, {.tensor = tensor.name},
                fmt::format("a scale of {} has no reciprocal in float32", value),
                {.hint = "--format modelopt stores the scale itself"});
  }
  const uint64_t at = tensor.offset - plan_.shards[tensor.shard].scalars_begin;
  std::memcpy(scalars_[tensor.shard].data() + at, &stored, sizeof stored);
}

void OutputMaker::report_read_back(uint64_t done, uint64_t of) const {
  if (!options_.progress) return;
  options_.progress({.phase = Phase::kRead,
                     .stage = "reading back what is there",
                     .stages_done = 0,
                     .stages = plan_.stages.size(),
                     .bytes_done = done,
                     .bytes = of});
}

void OutputMaker::finish() {
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
void OutputMaker::finish_checksum(uint32_t index) {
  const Tensor& tensor = plan_.tensors[index].out;
  const PlannedShard& shard = plan_.shards[tensor.shard];
  if (tensor.size_bytes == 0) {
    record_.checksums[index] = Hash().hex();
  } else if (tensor.offset >= shard.scalars_begin && tensor.offset < shard.scalars_end) {
    record_.checksums[index] = hash_of(
        std::span(scalars_[tensor.shard]).subspan(tensor.offset - shard.scalars_begin, tensor.size_bytes));
  }
}

void take_over_counts(const Checkpoint& source, const Plan& plan, const JobState& state, RunRecord& record,
                      NonFiniteCount& nonfinite) {
  for (const auto& [tensor, durable] : state.tensors) {
    record.checksums[tensor] = durable.checksum;
    count_made(plan, tensor, durable.counts, record);
    if (const auto from = plan.tensors[tensor].source)
      nonfinite.add_known(source.tensors()[*from], durable.counts.nonfinite);
  }
}

}  // namespace nibblecast
