#include "pipeline/run.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "base/hash.h"
#include "ops/product_isa.h"
#include "pipeline/forward_driver.h"
#include "pipeline/group_parts.h"
#include "pipeline/output_maker.h"
#include "pipeline/reader.h"
#include "pipeline/units.h"
#include "plan/input_scale.h"

namespace nibblecast {
namespace {

// Goes through the units of a plan: hands each to the forward pass and to the output.
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
        forward_(source, plan, activations, job, options, record_, progress_,
                 [this](size_t stage, const LayerAmax& amax) { set_input_scales(stage, amax); }),
        nonfinite_(source, options.allow_nonfinite) {
    record_.without_tokens.resize(plan.layers());
    record_.checksums.resize(plan.tensors.size());
    if (activations.amax) record_.perplexity = find_perplexity(activations.amax->metadata);
    if (!forward_.active()) check_perplexity(record_.perplexity, options_.max_perplexity);
    if (destination != nullptr)
      output_.emplace(source, plan, activations, job, options, *destination, record_);
    take_over_counts(source, plan, job.state(), record_, nonfinite_);
    work_.forward_from = forward_.forward_from();
    work_.write = [this](uint32_t tensor) { return output_ && output_->writes(tensor); };
    units_ = list_units(source, plan, work_);
    progress_.expect(units_, work_);
  }

  RunRecord execute() {
    const auto start = std::chrono::steady_clock::now();
    try {
      open_reader();
      size_t unit = 0;
      for (size_t stage = 0; stage < plan_.stages.size(); ++stage) {
        StageWatch watch(*this);
        unit = go_through(stage, unit);
        watch.end(progress_.stage_name());
      }
      StageWatch watch(*this);
      finish();
      watch.end("end");
      record_.stages.back().write_wait = record_.stages.back().seconds;  // for the disk, all of it
    } catch (...) {
      if (output_) output_->flush_quietly();
      throw;
    }
    record_.read_bytes = progress_.read_bytes();
    record_.seconds = seconds_since(start);
    return std::move(record_);
  }

 private:
  using Clock = std::chrono::steady_clock;
  static double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  // The times of a stage, from its begin on.
  class StageWatch {
   public:
    explicit StageWatch(Run& run)
        : run_(run),
          start_(Clock::now()),
          read_wait_(run.record_.read_wait_seconds),
          write_wait_(run.write_wait_seconds()),
          save_(run.record_.save_seconds),
          device_(run.record_.device) {
      run.forward_seconds_ = run.make_seconds_ = 0;
    }
    void end(std::string stage) {
      StageTimes times{.stage = std::move(stage), .seconds = seconds_since(start_)};
      times.read_wait = run_.record_.read_wait_seconds - read_wait_;
      times.write_wait = run_.write_wait_seconds() - write_wait_;
      times.save = run_.record_.save_seconds - save_;
      times.forward = std::max(0.0, run_.forward_seconds_ - times.save);
      times.make = std::max(0.0, run_.make_seconds_ - times.write_wait);
      times.bus = run_.record_.device.upload_seconds - device_.upload_seconds;
      times.device = run_.record_.device.compute_seconds - device_.compute_seconds;
      run_.record_.stages.push_back(std::move(times));
    }

   private:
    Run& run_;
    const Clock::time_point start_;
    const double read_wait_, write_wait_, save_;
    const DeviceUse device_;
  };

  double write_wait_seconds() const { return output_ ? output_->write_wait_seconds() : 0; }
  // f(), whose time is added to `seconds`.
  template <class F>
  static void timed(double& seconds, const F& f) {
    const auto start = Clock::now();
    f();
    seconds += seconds_since(start);
  }

  void open_reader() {
    std::vector<std::unique_ptr<File>> files;
    std::vector<ReadUnit> reads;
    for (const Shard& shard : source_.shards()) {
      files.push_back(source_.files().open(source_.folder() / shard.name, Access::kReadDirect));
    }
    for (const Unit& unit : units_) reads.push_back(unit.reads);
    const bool to_device = forward_.active() || (output_ && output_->has_device_maker());
    reader_.emplace(std::move(files), std::move(reads), options_.read_memory_bytes, options_.read_threads,
                    to_device ? read_buffers(options_.device) : nullptr);
  }

  // The first unit of the next stage.
  size_t go_through(size_t stage, size_t unit) {
    const auto start = Clock::now();
    progress_.begin_stage(stage);
    const std::optional<uint64_t> layer = plan_.stages[stage].layer;
    const bool forward = is_forward(plan_, work_, stage);
    if (forward) forward_.begin_stage(stage);
    report(Phase::kRead);
    for (; unit < units_.size() && units_[unit].stage == stage; ++unit) {
      const auto loaded = next_unit();
      if (forward) timed(forward_seconds_, [&] { forward_.before(units_[unit]); });
      progress_.begin_unit(units_[unit]);
      work(units_[unit], loaded);
      if (forward_.active()) timed(forward_seconds_, [&] { forward_.after(); });
      progress_.finish(units_[unit], output_ ? output_->pending_bytes() : 0);
      report(Phase::kRead);
    }
    if (forward) timed(forward_seconds_, [&] { forward_.end_stage(); });
    if (layer && !forward) end_known_layer(stage);
    if (layer && forward) record_.layer_seconds[*layer] = seconds_since(start);
    return unit;
  }

  std::shared_ptr<const Reader::Loaded> next_unit() {
    const auto start = Clock::now();
    auto loaded = std::make_shared<const Reader::Loaded>(reader_->next());
    record_.read_wait_seconds += seconds_since(start);
    return loaded;
  }

  void work(const Unit& unit, const std::shared_ptr<const Reader::Loaded>& owner) {
    const Reader::Loaded& loaded = *owner;
    if (unit.group == nullptr) {
      look_at(unit, loaded[0]);
      if (unit.forward) timed(forward_seconds_, [&] { forward_.take(unit, owner); });
      if (!unit.write) return;
      report(Phase::kMake);
      timed(make_seconds_, [&] { output_->copy(unit, loaded[0], nonfinite_, progress_.stage_name()); });
      return;
    }
    const std::vector<std::span<const std::byte>> parts = parts_of(unit, loaded);
    const std::vector<StoredLinear> views =
        group_views(source_, *unit.group, unit.rows, [&](size_t part) { return parts[part]; });
    check_group(source_, *unit.group, unit.first_row, views);
    look_at_kept(unit, parts);
    if (unit.forward) {
      timed(forward_seconds_, [&] {
        if (unit.is_mlp())
          forward_.mlp(unit, views, owner);
        else
          forward_.take(unit, owner);
      });
    }
    if (!unit.write) return;
    report(Phase::kMake);
    timed(make_seconds_, [&] { output_->make(unit, views, progress_.stage_name()); });
  }

  // Of group_ranges(), in memory.
  std::vector<std::span<const std::byte>> parts_of(const Unit& unit, const Reader::Loaded& loaded) const {
    std::vector<std::span<const std::byte>> parts;
    auto place = unit.places.begin();
    for (const FileRange& range : group_ranges(source_, *unit.group, unit.first_row, unit.rows)) {
      parts.push_back(loaded[place->range].subspan(place->offset, range.size_bytes));
      ++place;
    }
    return parts;
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

  // The same of weights of a group that are copied; their makers look at the others.
  void look_at_kept(const Unit& unit, const std::vector<std::span<const std::byte>>& parts) {
    auto part = parts.begin();
    for (const PlannedLinear& linear : unit.group->linears) {
      linear.source.for_parts([&](const Slice& slice) {
        if (plan_.tensors[linear.weight].make == Make::kKeep)
          nonfinite_.add(source_.tensors()[slice.tensor], slice.begin, *part);
        ++part;
      });
    }
  }

  // Of a layer that no forward pass goes through.
  void end_known_layer(size_t stage) {
    const uint64_t layer = *plan_.stages[stage].layer;
    if (activations_.rows) {
      record_.layers.push_back(job_.state().layers.at(layer));
    } else if (activations_.amax) {
      record_.layers.push_back(layer_of(*activations_.amax, layer));
    } else {
      return;  // nothing hangs on activations
    }
    set_input_scales(stage, record_.layers.back());
  }

  // Nothing is known of a layer that the file lacks; tap_amax() refuses it where it is needed.
  static LayerAmax layer_of(const AmaxFile& amax, uint64_t layer) {
    const LayerAmax* found = find_layer(amax.layers, layer);
    return found == nullptr ? LayerAmax{.layer = layer, .taps = {}, .tokens = {}} : *found;
  }

  // A constant is there already; what was measured says then only which experts saw tokens.
  void set_input_scales(size_t stage, const LayerAmax& amax) {
    record_.without_tokens[amax.layer] = experts_without_tokens(amax);
    for_each_scale(plan_, plan_.stages[stage], amax, activations_.origin, [&](uint32_t tensor, float value) {
      if (output_) output_->set_scalar(tensor, value);
    });
  }

  void finish() {
    report(Phase::kFinish);
    if (output_) output_->finish();
    save_amax(source_, plan_, activations_, options_, record_);
    record_.nonfinite = nonfinite_.found();
  }

  void report(Phase phase) { progress_.report(phase); }

  const Checkpoint& source_;
  const Plan& plan_;
  const Activations& activations_;
  Job& job_;
  const RunOptions& options_;
  RunRecord record_;
  RunProgress progress_;
  Work work_;
  std::optional<Reader> reader_;  // before forward_, which may hold what it loaded
  ForwardDriver forward_;
  std::optional<OutputMaker> output_;
  std::vector<Unit> units_;
  NonFiniteCount nonfinite_;
  double forward_seconds_ = 0, make_seconds_ = 0;  // of the stage in progress
};

}  // namespace

void save_amax(const Checkpoint& source, const Plan& plan, const Activations& activations,
               const RunOptions& options, const RunRecord& record) {
  if (options.amax_output.empty()) return;
  write_amax(source.files(), options.amax_output,
             {.metadata = amax_metadata(source, plan, *activations.rows, record.perplexity),
              .layers = record.layers});
}

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
  return {.rows = {},
          .amax = read_amax(files, path),
          .origin = path.string(),
          .identity = hash_of(read_text(files, path, kLimit)),
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
      {"model_type", plan.model->model_type},
      {"layers", std::to_string(plan.layers())},
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
