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
      scales_reader_(source),
      head_(&source.at(head_weight(plan))) {
  std::vector<std::unique_ptr<File>> files;
  std::vector<ReadUnit> reads;
  for (const Shard& shard : source.shards())
    files.push_back(source.files().open(source.folder() / shard.name, Access::kReadDirect));
  for (const Unit& unit : units_) reads.push_back(unit.reads);
  reader_.emplace(std::move(files), std::move(reads), options.read_memory_bytes, options.read_threads,
                  read_buffers(options.device));
  for (size_t pass = 0; pass < options.rules.size(); ++pass) {
    passes_.push_back(std::make_unique<CalibrationPass>(source, plan, rows, options.device));
    if (options.first_layer > 0) forward(pass).resume_at(options.first_layer);
    if (options.tick) forward(pass).set_tick([this](double) { options_.tick(); });
  }
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

void ModelWalk::run_stage(size_t stage, const TapBlocks& source_blocks) {
  const std::optional<uint64_t> layer = plan_.stages[stage].layer;
  attended_ = false;
  if (layer) {
    for (const auto& pass : passes_) pass->expect_layer(*layer);
    set_scales(*layer, source_blocks);
  }
  while (unit_ < units_.size() && units_[unit_].stage == stage) {
    const Unit& unit = units_[unit_];
    run_unit(unit, next());
  }
  if (!layer) return;
  for (const auto& pass : passes_) {
    if (!attended_) pass->forward().begin_layer();
    pass->forward().end_layer();
    pass->forward().layer_amax();
  }
}

void ModelWalk::set_scales(uint64_t layer, const TapBlocks& source_blocks) {
  scales_.assign(passes(), {});
  const auto rounds = [](const InputScaleRule& rule) {
    return rule.base != InputScaleRule::Base::kUnrounded;
  };
  if (std::ranges::none_of(options_.rules, rounds)) return;
  const StoredInputScales stored = input_scales_of(source_, plan_, layer, scales_reader_);
  for (size_t pass = 0; pass < passes(); ++pass) {
    scales_[pass] = apply_rule(options_.rules[pass], stored, plan_.model->table.layers[layer], source_blocks);
    forward(pass).set_input_scales(scales_[pass].modules);
  }
}

void ModelWalk::take(const Unit& unit, size_t range, uint64_t begin, std::span<const std::byte> bytes,
                     const Loaded& loaded) {
  const FileRange& read = unit.reads[range];
  for (const auto& pass : passes_) pass->take(read.file, read.begin + begin, bytes, loaded);
}

void ModelWalk::run_unit(const Unit& unit, const Loaded& loaded) {
  if (unit.is_mlp()) {
    run_mlp(unit, loaded);
    return;
  }
  for (size_t range = 0; range < unit.reads.size(); ++range) take(unit, range, 0, (*loaded)[range], loaded);
}

void ModelWalk::run_mlp(const Unit& unit, const Loaded& loaded) {
  if (!attended_)
    for (const auto& pass : passes_) pass->forward().begin_layer();
  attended_ = true;
  const std::vector<FileRange> ranges = group_ranges(source_, *unit.group, 0, 0);
  const std::vector<StoredLinear> views = group_views(source_, *unit.group, 0, [&](size_t part) {
    const Place& place = unit.places[part];
    return (*loaded)[place.range].subspan(place.offset, ranges[part].size_bytes);
  });
  StoredExpert mlp = mlp_of(*unit.group, views);
  const uint64_t number = *unit.group->expert;
  for (size_t pass = 0; pass < passes(); ++pass) {
    const std::vector<LayerInputScales::Mlp>& scales = scales_[pass].mlps;
    mlp.in_scale = number < scales.size() ? scales[number].in : 0;
    mlp.mid_scale = number < scales.size() ? scales[number].mid : 0;
    forward(pass).expert(number, mlp, loaded);
  }
}

void ModelWalk::begin_head(size_t pass, LogitsSink sink) { passes_[pass]->expect_head(std::move(sink)); }

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
      take(units_[unit_ - 1], 0, chunk_taken_, (*chunk_)[0].subspan(chunk_taken_, to - chunk_taken_), chunk_);
      chunk_taken_ = to;
    }
    if (chunk_taken_ < range.size_bytes) return;
    chunk_.reset();
  }
}

}  // namespace nibblecast
