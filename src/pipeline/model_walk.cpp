#include "pipeline/model_walk.h"

#include <algorithm>
#include <chrono>

#include "pipeline/group_parts.h"

namespace nibblecast {
namespace {

Work pass_from(uint64_t layer) {
  return {.write = [](uint32_t) { return false; }, .forward_from = layer};
}

}  // namespace

ModelWalk::ModelWalk(const Checkpoint& source, const Plan& plan,
                     const std::vector<std::vector<int32_t>>& rows, const WalkOptions& options)
    : source_(source),
      plan_(plan),
      options_(options),
      units_(list_units(source, plan, pass_from(options.first_layer))),
      pass_(source, plan, rows, options.device),
      scales_reader_(source),
      head_(&source.at(head_weight(plan))) {
  std::vector<std::unique_ptr<File>> files;
  std::vector<ReadUnit> reads;
  for (const Shard& shard : source.shards())
    files.push_back(source.files().open(source.folder() / shard.name, Access::kReadDirect));
  for (const Unit& unit : units_) reads.push_back(unit.reads);
  reader_.emplace(std::move(files), std::move(reads), options.read_memory_bytes, options.read_threads,
                  read_buffers(options.device));
  if (options.first_layer > 0) forward().resume_at(options.first_layer);
  if (options.tick) forward().set_tick([this](double) { options_.tick(); });
}

uint64_t ModelWalk::bytes() const {
  uint64_t bytes = 0;
  for (const Unit& unit : units_) bytes += unit.size_bytes();
  return bytes;
}

ModelWalk::Loaded ModelWalk::next() {
  if (options_.tick) options_.tick();
  const auto start = std::chrono::steady_clock::now();
  auto loaded = std::make_shared<const Reader::Loaded>(reader_->next());
  read_wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  read_bytes_ += units_[unit_++].size_bytes();
  return loaded;
}

void ModelWalk::run_stage(size_t stage) {
  const std::optional<uint64_t> layer = plan_.stages[stage].layer;
  attended_ = false;
  if (layer) {
    pass_.expect_layer(*layer);
    read_scales(*layer);
  }
  while (unit_ < units_.size() && units_[unit_].stage == stage) {
    const Unit& unit = units_[unit_];
    run_unit(unit, next());
  }
  if (!layer) return;
  if (!attended_) forward().begin_layer();
  forward().end_layer();
  forward().layer_amax();
}

void ModelWalk::read_scales(uint64_t layer) {
  scales_ = {};
  if (!options_.round_inputs) return;
  scales_ = input_scales_of(source_, plan_, layer, scales_reader_);
  forward().set_input_scales(scales_.modules);
}

void ModelWalk::run_unit(const Unit& unit, const Loaded& loaded) {
  if (unit.is_mlp()) {
    run_mlp(unit, loaded);
    return;
  }
  for (size_t range = 0; range < unit.reads.size(); ++range)
    pass_.take(unit.reads[range].file, unit.reads[range].begin, (*loaded)[range], loaded);
}

void ModelWalk::run_mlp(const Unit& unit, const Loaded& loaded) {
  if (!attended_) forward().begin_layer();
  attended_ = true;
  const std::vector<FileRange> ranges = group_ranges(source_, *unit.group, 0, 0);
  const std::vector<StoredLinear> views = group_views(source_, *unit.group, 0, [&](size_t part) {
    const Place& place = unit.places[part];
    return (*loaded)[place.range].subspan(place.offset, ranges[part].size_bytes);
  });
  StoredExpert mlp = mlp_of(*unit.group, views);
  const uint64_t number = *unit.group->expert;
  if (number < scales_.mlps.size()) {
    mlp.in_scale = scales_.mlps[number].in;
    mlp.mid_scale = scales_.mlps[number].mid;
  }
  forward().expert(number, mlp, loaded);
}

void ModelWalk::begin_head(LogitsSink sink) { pass_.expect_head(std::move(sink)); }

bool ModelWalk::holds_head(const Unit& unit) const {
  return std::ranges::any_of(unit.pieces, [&](const Piece& piece) {
    return &source_.tensors()[*plan_.tensors[piece.tensor].source] == head_;
  });
}

void ModelWalk::head_until(uint64_t row) {
  const uint64_t end = head_->offset + row * (head_->size_bytes / head_->shape[0]);
  while (true) {
    if (!chunk_) {
      if (unit_ == units_.size()) return;
      const Unit& unit = units_[unit_];
      if (!holds_head(unit)) {
        run_unit(unit, next());
        continue;
      }
      if (unit.reads[0].begin >= end) return;
      chunk_ = next();
      chunk_taken_ = 0;
    }
    const FileRange& range = units_[unit_ - 1].reads[0];
    const uint64_t to = std::min(range.size_bytes, end - std::min(end, range.begin));
    if (to > chunk_taken_) {
      pass_.take(range.file, range.begin + chunk_taken_,
                 (*chunk_)[0].subspan(chunk_taken_, to - chunk_taken_), chunk_);
      chunk_taken_ = to;
    }
    if (chunk_taken_ < range.size_bytes) return;
    chunk_.reset();
  }
}

}  // namespace nibblecast
