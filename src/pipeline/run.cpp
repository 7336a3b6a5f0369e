#include "pipeline/run.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "base/parallel.h"
#include "ops/product_isa.h"
#include "pipeline/calibration_pass.h"
#include "pipeline/committer.h"
#include "pipeline/group_maker.h"
#include "pipeline/kept_shards.h"
#include "pipeline/output.h"
#include "pipeline/reader.h"
#include "pipeline/saved_streams.h"
#include "pipeline/units.h"
#include "pipeline/writer.h"

namespace nibblecast {
namespace {

class Run {
 public:
  Run(const Checkpoint& source, const Plan& plan, const Activations& activations, Job& job,
      const RunOptions& options, const std::filesystem::path* destination)
      : source_(source),
        plan_(plan),
        activations_(activations),
        job_(job),
        options_(options),
        progress_(plan, activations.rows ? &*activations.rows : nullptr, options.progress),
        durable_(job.state().tensors),
        nonfinite_(source, options.allow_nonfinite) {
    record_.without_tokens.resize(plan.model.num_hidden_layers);
    record_.checksums.resize(plan.tensors.size());
    if (activations.rows) resume_forward();
    if (activations.amax) record_.perplexity = find_perplexity(activations.amax->metadata);
    if (!pass_) check_perplexity(record_.perplexity, options_.max_perplexity);
    if (destination != nullptr) open_output(*destination);
    take_over_durable();
    units_ = list_units(source, plan, work_);
    progress_.expect(units_, work_);
  }

  RunRecord execute() {
    const auto start = std::chrono::steady_clock::now();
    stage_start_ = start;
    try {
      go_through_stages();
      if (writer_) finish_shards();
      if (!options_.amax_output.empty()) save_amax();
      record_.nonfinite = nonfinite_.found();
    } catch (...) {
      if (committer_) committer_->flush_quietly();
      throw;
    }
    record_.read_bytes = progress_.read_bytes();
    record_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(record_);
  }

 private:
  // The forward pass starts at the saved streams, or at the embedding; not at all where every layer and the
  // perplexity are known.
  void resume_forward() {
    const JobState& state = job_.state();
    if (state.layers.size() == plan_.model.num_hidden_layers) {
      record_.perplexity = state.perplexity;
      if (state.perplexity) return;
      if (!state.streams || state.streams->layer < state.layers.size()) note_second_pass();
    }
    begin_forward();
    work_.forward_from = 0;
    if (!state.streams) return;
    const SavedStreams& saved = *state.streams;
    pass_->forward().resume_at(saved.layer);
    if (load_streams(source_.files(), job_.work_folder(), saved, pass_->forward())) {
      work_.forward_from = saved_at_ = saved.layer;
      return;
    }
    record_.notes.push_back(fmt::format("{} is missing or damaged: the forward pass starts at layer 0 again",
                                        (job_.work_folder() / saved.file).string()));
    begin_forward();
  }

  // Nothing was saved between the last layer and the head; or an older version began the job.
  void note_second_pass() {
    const auto& streams = job_.state().streams;
    record_.notes.push_back(
        fmt::format("every layer is calibrated, but the perplexity of the rows is not in the journal: the "
                    "forward pass starts at layer {} again",
                    streams ? streams->layer : 0));
  }

  void begin_forward() {
    pass_.reset();  // first, so that a device holds only one
    pass_.emplace(source_, plan_, activations_.rows->ids, options_.device);
    if (options_.progress) pass_->forward().set_tick([this](double done) { progress_.tick(done); });
  }

  // Shards that an earlier attempt wrote into are gone on with. What is lost is journaled before a shard gets
  // its size again: nothing may speak for the zeros in it.
  void open_output(const std::filesystem::path& destination) {
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
  void stamp_again(const std::vector<std::unique_ptr<File>>& shards, const std::vector<uint32_t>& read_back) {
    ShardStamps stamps;
    for (const uint32_t shard : read_back) {
      shards[shard]->sync();  // a copy that somebody put there may not be durable
      if (const auto stamp = shards[shard]->stamp()) stamps[shard] = *stamp;
    }
    if (!stamps.empty()) job_.journal().append(stamps_entry(stamps));
  }

  void take_over_durable() {
    for (const auto& [tensor, durable] : durable_) {
      record_.checksums[tensor] = durable.checksum;
      count(tensor, durable.counts);
      if (const auto from = plan_.tensors[tensor].source)
        nonfinite_.add_known(source_.tensors()[*from], durable.counts.nonfinite);
    }
    if (writer_) {
      for (const auto& [tensor, value] : job_.state().scalars) set_scalar(tensor, value);
      set_constant_input_scales();
    }
    work_.write = [this](uint32_t tensor) { return writer_ && !durable_.contains(tensor); };
  }

  void set_constant_input_scales() {
    if (plan_.options.input_scale != InputScalePolicy::kConstant) return;
    for (uint32_t index = 0; index < plan_.tensors.size(); ++index) {
      if (plan_.tensors[index].make == Make::kInputScale)
        set_scalar(index, plan_.options.constant_input_scale);
    }
  }

  void go_through_stages() {
    std::vector<std::unique_ptr<File>> files;
    std::vector<ReadUnit> reads;
    for (const Shard& shard : source_.shards()) {
      files.push_back(source_.files().open(source_.folder() / shard.name, Access::kReadDirect));
    }
    for (const Unit& unit : units_) reads.push_back(unit.reads);
    reader_.emplace(std::move(files), std::move(reads), options_.read_memory_bytes, options_.read_threads,
                    pass_ || device_maker_ ? read_buffers(options_.device) : nullptr);
    size_t unit = 0;
    for (size_t stage = 0; stage < plan_.stages.size(); ++stage) {
      stage_ = stage;
      progress_.begin_stage(stage);
      const bool forward = is_forward(plan_, work_, stage),
                 layer_forward = forward && plan_.stages[stage].layer;
      const bool head_forward = forward && !layer_forward && stage > 0;
      if (layer_forward) pass_->expect_layer(*plan_.stages[stage].layer);
      if (head_forward) pass_->expect_head();
      bool attended = false;
      report(Phase::kRead);
      for (; unit < units_.size() && units_[unit].stage == stage; ++unit) {
        const auto loaded = next_unit();
        if (layer_forward && !attended && is_expert(units_[unit])) {
          progress_.begin_attention();
          report(Phase::kForward);
          pass_->forward().begin_layer();
          progress_.end_part();
          attended = true;
        }
        progress_.begin_unit(units_[unit]);
        work(units_[unit], loaded);
        if (ended_ && pass_->forward().layer_done()) settle_forward();
        if (head_forward && !record_.perplexity && pass_->head_done()) end_head();
        progress_.finish(units_[unit], writer_ ? writer_->pending_bytes() : 0);
        report(Phase::kRead);
      }
      if (layer_forward)
        end_forward();
      else if (plan_.stages[stage].layer)
        end_known_layer(*plan_.stages[stage].layer);
      const auto now = std::chrono::steady_clock::now();
      if (layer_forward) {
        record_.layer_seconds[*plan_.stages[stage].layer] =
            std::chrono::duration<double>(now - stage_start_).count();
      }
      stage_start_ = now;
    }
  }

  std::shared_ptr<const Reader::Loaded> next_unit() {
    const auto start = std::chrono::steady_clock::now();
    auto loaded = std::make_shared<const Reader::Loaded>(reader_->next());
    record_.read_wait_seconds +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return loaded;
  }

  static bool is_expert(const Unit& unit) { return unit.group != nullptr && unit.group->expert; }

  void work(const Unit& unit, const std::shared_ptr<const Reader::Loaded>& owner) {
    const Reader::Loaded& loaded = *owner;
    if (unit.group == nullptr) {
      look_at(unit, loaded[0]);
      if (unit.forward) take(unit, owner);
      if (unit.write) copy(unit, loaded[0]);
      return;
    }
    std::vector<LinearTask> tasks = tasks_of(unit, loaded);
    check_group(source_, tasks);
    look_at_kept(unit, loaded);
    if (unit.forward) {
      report(Phase::kForward);
      if (is_expert(unit)) {
        progress_.begin_expert(*unit.group->expert);
        pass_->forward().expert(*unit.group->expert, {tasks[0].source, tasks[1].source, tasks[2].source},
                                owner);
        progress_.end_part();
      } else {
        take(unit, owner);
      }
    }
    if (unit.write) make(unit, tasks);
  }

  // For NaN and infinity, which would be copied.
  void look_at(const Unit& unit, std::span<const std::byte> bytes) {
    uint64_t begin = 0;
    for (const Piece& piece : unit.pieces) {
      const Tensor& tensor = source_.tensors()[*plan_.tensors[piece.tensor].source];
      nonfinite_.add(tensor, piece.begin, bytes.subspan(begin, piece.size_bytes));
      begin += piece.size_bytes;
    }
  }

  // The same of an expert that is copied; its makers look at the others.
  void look_at_kept(const Unit& unit, const Reader::Loaded& loaded) {
    auto place = unit.places.begin();
    for (const PlannedLinear& linear : unit.group->linears) {
      for (const uint32_t index : {linear.source_weight, linear.source_scale, linear.source_scale_2}) {
        if (index == kNone) continue;
        const Tensor& tensor = source_.tensors()[index];
        if (plan_.tensors[linear.weight].make == Make::kKeep)
          nonfinite_.add(tensor, 0, loaded[place->range].subspan(place->offset, tensor.size_bytes));
        ++place;
      }
    }
  }

  // The group's linears as they lie in memory; the output's places are not yet known.
  std::vector<LinearTask> tasks_of(const Unit& unit, const Reader::Loaded& loaded) const {
    std::vector<LinearTask> tasks;
    auto place = unit.places.begin();
    for (const PlannedLinear& linear : unit.group->linears) {
      const Tensor& weight = source_.tensors()[linear.source_weight];
      const uint64_t all_rows = stored_rows(weight);
      const uint64_t rows = unit.rows == 0 ? all_rows : unit.rows;
      std::array<std::span<const std::byte>, 3> parts;
      size_t part = 0;
      for (const uint32_t index : {linear.source_weight, linear.source_scale, linear.source_scale_2}) {
        if (index != kNone) {
          const Tensor& tensor = source_.tensors()[index];
          const uint64_t size = rows == all_rows
                                    ? tensor.size_bytes
                                    : rows_range(plan_, tensor, weight, unit.first_row, rows).size_bytes;
          parts[part] = loaded[place->range].subspan(place->offset, size);
          ++place;
        }
        ++part;
      }
      tasks.push_back(
          {.linear = &linear,
           .source = stored_view(source_, plan_, linear, unit.first_row, rows, parts[0], parts[1], parts[2]),
           .first_row = unit.first_row,
           .weight = {},
           .block_scale = {}});
    }
    return tasks;
  }

  void take(const Unit& unit, const std::shared_ptr<const Reader::Loaded>& owner) {
    report(Phase::kForward);
    for (size_t range = 0; range < unit.reads.size(); ++range)
      pass_->take(unit.reads[range].file, unit.reads[range].begin, (*owner)[range], owner);
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
      std::ranges::copy(part, batch[place->range].data() + place->offset);
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
    MadeCounts counts;
    counts.nonfinite = nonfinite_.of(source_.tensors()[*plan_.tensors[piece.tensor].source].name);
    done.tensors.push_back({piece.tensor, {.checksum = kept_hash_.hex(), .counts = counts}});
  }

  // The batch holds the last bytes of `done`'s tensors.
  void submit(Writer::Batch batch, DoneUnit done) {
    std::vector<uint32_t> shards;
    for (DoneTensor& tensor : done.tensors) {
      const Tensor& out = plan_.tensors[tensor.tensor].out;
      tensor.is.size_bytes = out.size_bytes;
      record_.checksums[tensor.tensor] = tensor.is.checksum;
      if (std::ranges::find(shards, out.shard) == shards.end()) shards.push_back(out.shard);
    }
    const uint64_t number = writer_->submit(std::move(batch));
    if (done.tensors.empty()) return;
    done.stage = progress_.stage_name();
    committer_->add(number, std::move(shards), done_entry(done));
  }

  // Weights and block scales of a group; neighbours in the output are written as one.
  void make(const Unit& unit, std::vector<LinearTask>& tasks) {
    report(Phase::kMake);
    std::vector<uint32_t> outputs;
    std::vector<FileRange> ranges;
    for (const LinearTask& task : tasks) {
      for (const uint32_t index : {task.linear->weight, task.linear->block_scale}) {
        if (index == kNone) continue;
        const Tensor& out = plan_.tensors[index].out;
        outputs.push_back(index);
        ranges.push_back(unit.rows == 0 ? FileRange{out.shard, out.offset, out.size_bytes}
                                        : rows_range(plan_, out, out, unit.first_row, unit.rows));
      }
    }
    const MergedRanges merged = merge_ranges(ranges);
    Writer::Batch batch = writer_->take(merged.ranges);
    std::vector<std::span<std::byte>> bytes;
    for (size_t index = 0; index < ranges.size(); ++index) {
      const Place& place = merged.places[index];
      bytes.push_back(batch[place.range].subspan(place.offset, ranges[index].size_bytes));
    }
    auto next = bytes.begin();
    for (LinearTask& task : tasks) {
      task.weight = *next++;
      if (task.linear->block_scale != kNone) task.block_scale = *next++;
    }
    const std::vector<MadeLinear> made =
        make_group(source_, plan_, tasks, Kernels::kFast, device_maker_.get());
    DoneUnit done;
    if (unit.rows > 0) {
      add_rows(unit, outputs[0], bytes[0], made[0].counts, done);
    } else {
      for (const uint32_t output : outputs) done.tensors.push_back({output, {}});
      parallel_for(outputs.size(),
                   [&](size_t index) { done.tensors[index].is.checksum = checksum_of(bytes[index]); });
      note_made(tasks, made, done);
    }
    submit(std::move(batch), std::move(done));
  }

  void note_made(const std::vector<LinearTask>& tasks, const std::vector<MadeLinear>& made, DoneUnit& done) {
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
  void add_rows(const Unit& unit, uint32_t tensor, std::span<const std::byte> bytes, const MadeCounts& counts,
                DoneUnit& done) {
    if (unit.first_row == 0) rows_hash_ = Hash(), rows_counts_ = {};
    rows_hash_.add(bytes);
    rows_counts_.inexact += counts.inexact;
    if (unit.first_row + unit.rows < plan_.tensors[tensor].out.shape[0]) return;
    done.tensors.push_back({tensor, {.checksum = rows_hash_.hex(), .counts = rows_counts_}});
    count(tensor, rows_counts_);
  }

  static std::string checksum_of(std::span<const std::byte> bytes) {
    Hash hash;
    hash.add(bytes);
    return hash.hex();
  }

  void count(uint32_t weight, const MadeCounts& counts) {
    const std::string& name = plan_.tensors[weight].out.name;
    record_.blocks.merge(counts.blocks);
    if (counts.blocks.outside_window > 0) record_.outside_window[name] = counts.blocks.outside_window;
    if (plan_.tensors[weight].make == Make::kNvfp4Weight) record_.losses[name] = counts.loss;
    if (counts.inexact > 0) record_.inexact[name] = counts.inexact;
  }

  void set_scalar(uint32_t index, float value) {
    const Tensor& tensor = plan_.tensors[index].out;
    const uint64_t at = tensor.offset - plan_.shards[tensor.shard].scalars_begin;
    std::memcpy(scalars_[tensor.shard].data() + at, &value, sizeof value);
  }

  // Of a layer that no forward pass goes through.
  void end_known_layer(uint64_t layer) {
    if (activations_.rows) {
      record_.layers.push_back(job_.state().layers.at(layer));
    } else if (activations_.amax) {
      record_.layers.push_back(layer_of(*activations_.amax, layer));
    } else {
      return;  // nothing hangs on activations
    }
    set_input_scales(stage_, record_.layers.back());
  }

  // A constant is there already; what was measured says then only which experts saw tokens.
  void set_input_scales(size_t stage, const LayerAmax& amax) {
    const bool set = writer_ && plan_.options.input_scale != InputScalePolicy::kConstant;
    const uint64_t layer = *plan_.stages[stage].layer;
    std::optional<LayerInputScales> experts;
    for (const PlannedGroup& group : plan_.stages[stage].groups) {
      if (!group.expert) {
        const float largest = group_input_amax(source_, group, amax, activations_.origin);
        if (!set) continue;
        for (const PlannedLinear& linear : group.linears) {
          if (linear.input_scale == kNone) continue;
          set_scalar(linear.input_scale, input_scale_of(plan_.tensors[linear.weight].make, largest));
        }
        continue;
      }
      if (group.linears[0].input_scale == kNone) continue;
      if (!experts) experts = layer_input_scales(plan_, layer, amax.experts, activations_.origin);
      if (!set) continue;
      for (size_t slot = 0; slot < 3; ++slot) {
        const std::vector<float>& scales = slot == 1 ? experts->w2 : experts->w13;
        set_scalar(group.linears[slot].input_scale, scales[*group.expert]);
      }
    }
    record_.without_tokens[layer] = experts_without_tokens(amax.experts);
  }

  // The layer's last unit was worked on. While a device is still computing it, the next one begins.
  void end_forward() {
    if (ended_) settle_forward();
    progress_.begin_shared();
    report(Phase::kForward);
    pass_->forward().end_layer();
    progress_.end_part();
    ended_ = stage_;
    const uint64_t next = *plan_.stages[stage_].layer + 1;
    const bool last = next == plan_.model.num_hidden_layers;
    // The head is as a layer; a run that never saved has no room on the disk for it either.
    const bool save = next - saved_at_ >= options_.checkpoint_every && !(last && saved_at_ == 0);
    if (last || save || pass_->forward().layer_done()) settle_forward();
    if (save) save_streams_before(next);
  }

  // Of a forward pass that went through all layers.
  void end_head() {
    report(Phase::kForward);
    record_.perplexity = pass_->perplexity();
    record_.device = pass_->forward().device_use();
    job_.journal().append(perplexity_entry(*record_.perplexity));
    if (!options_.amax_output.empty()) save_amax();
    check_perplexity(record_.perplexity, options_.max_perplexity);
  }

  // What the forward pass found out about the layer that ended.
  void settle_forward() {
    const size_t stage = *std::exchange(ended_, std::nullopt);
    const uint64_t layer = *plan_.stages[stage].layer;
    record_.layers.push_back(pass_->forward().layer_amax());
    record_.device = pass_->forward().device_use();
    const auto before = job_.state().layers.find(layer);
    if (before != job_.state().layers.end() && before->second != record_.layers.back()) {
      throw Error(
          ErrorKind::kInternal, {.file = job_.work_folder().string()},
          fmt::format("layer {} gives other activations than before the interruption", layer),
          {.hint = "is this the same machine, and is its memory sound? Begin again in another folder"});
    }
    job_.journal().append(layer_entry(record_.layers.back()));
    if (!options_.amax_output.empty()) save_amax();
    set_input_scales(stage, record_.layers.back());
  }

  void save_streams_before(uint64_t layer) {
    report(Phase::kSaveStreams);
    const SavedStreams saved = save_streams(source_.files(), job_.work_folder(), layer, pass_->forward());
    job_.journal().append(streams_entry(saved));
    remove_streams(source_.files(), job_.work_folder(), saved.file);
    saved_at_ = layer;
  }

  // Nothing is known of a layer that the file lacks; set_input_scales() refuses it where it is needed.
  static LayerAmax layer_of(const AmaxFile& amax, uint64_t layer) {
    const LayerAmax* found = find_layer(amax.layers, layer);
    return found == nullptr ? LayerAmax{.layer = layer, .linears = {}, .experts = {}} : *found;
  }

  void save_amax() const {
    write_amax(source_.files(), options_.amax_output,
               {.metadata = amax_metadata(source_, plan_, *activations_.rows, record_.perplexity),
                .layers = record_.layers});
  }

  void report(Phase phase) { progress_.report(phase); }

  void report_read_back(uint64_t done, uint64_t of) const {
    if (!options_.progress) return;
    options_.progress({.phase = Phase::kRead,
                       .stage = "reading back what is there",
                       .stages_done = 0,
                       .stages = plan_.stages.size(),
                       .bytes_done = done,
                       .bytes = of});
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
  RunProgress progress_;
  std::unordered_map<uint32_t, DurableTensor>& durable_;  // before this attempt
  Work work_;
  std::optional<Reader> reader_;  // before pass_, which may hold what it loaded
  std::optional<CalibrationPass> pass_;
  std::optional<size_t> ended_;                  // stage of the layer that ended and is not settled
  uint64_t saved_at_ = 0;                        // layer that the saved streams enter
  std::vector<std::vector<std::byte>> scalars_;  // [shard]: the bytes between header and the rest
  std::unique_ptr<Nvfp4Maker> device_maker_;
  std::optional<Writer> writer_;
  std::optional<Committer> committer_;
  std::vector<Unit> units_;
  size_t stage_ = 0;
  std::chrono::steady_clock::time_point stage_start_;
  Hash kept_hash_;  // of the kept tensor in progress
  NonFiniteCount nonfinite_;
  Hash rows_hash_;  // of the tensor that is made by rows
  MadeCounts rows_counts_;
  RunRecord record_;
};

}  // namespace

std::string rows_identity(const CalibrationRows& rows) {
  Hash hash;
  for (const std::vector<int32_t>& row : rows.ids) {
    hash.add(std::to_string(row.size()) + ":");
    hash.add(std::as_bytes(std::span(row)));
  }
  return hash.hex();
}

Activations Activations::from_rows(CalibrationRows rows, std::string origin) {
  std::string identity = rows_identity(rows);
  return {.rows = std::move(rows),
          .amax = {},
          .origin = std::move(origin),
          .identity = std::move(identity),
          .products = product_isa()};
}

Activations Activations::from_amax(FileSystem& files, const std::filesystem::path& path) {
  constexpr uint64_t kLimit = 1 << 30;
  Hash hash;
  hash.add(read_text(files, path, kLimit));
  return {.rows = {},
          .amax = read_amax(files, path),
          .origin = path.string(),
          .identity = hash.hex(),
          .products = {}};
}

Json run_identity(const Checkpoint& source, const Plan& plan, const Activations& activations) {
  Json identity = plan_identity(plan, source, activations.identity);
  if (activations.rows) identity["products"] = activations.products;
  return identity;
}

std::map<std::string, std::string> amax_metadata(const Checkpoint& source, const Plan& plan,
                                                 const CalibrationRows& rows,
                                                 const std::optional<Perplexity>& perplexity) {
  std::map<std::string, std::string> metadata = {
      {"producer", "nibblecast " NIBBLECAST_VERSION},
      {"model_type", "deepseek_v4"},
      {"layers", std::to_string(plan.model.num_hidden_layers)},
      {"model", source_identity(source)},
      {"weights", plan.weights},
      {"calibration", rows_identity(rows)},
      {"rows", std::to_string(rows.ids.size())},
      {"tokens", std::to_string(rows.tokens())},
      {"compute_dtype", std::string(compute_dtype_name(plan.options.compute_dtype))}};
  if (perplexity) add_perplexity(*perplexity, metadata);
  return metadata;
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
