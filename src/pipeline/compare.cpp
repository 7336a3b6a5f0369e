#include "pipeline/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <tuple>
#include <unordered_map>

#include "base/error.h"
#include "base/parallel.h"
#include "checkpoint/quantization.h"
#include "formats/stored_linear.h"
#include "pipeline/extents.h"
#include "pipeline/reader.h"
#include "weights/container.h"

namespace nibblecast {
namespace {

constexpr uint64_t kValuesAtOnce = 4 << 20;  // of a weight: twice 16 MB as FP32
constexpr uint64_t kBytesAtOnce = 8 << 20;   // of what has no values
constexpr uint64_t kRowsTask = 16;           // rows that one task compares
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What is compared as one thing.
struct Item {
  std::string name = {}, format = {};
  bool has_values = false;
  LinearSource linear = {};  // of a tensor without values: the whole of it is `weight`
};

bool may_be_weight(Dtype dtype) {
  return plain_format(dtype) || dtype == Dtype::kF8E4M3 || dtype == Dtype::kI8 || dtype == Dtype::kU8 ||
         dtype == Dtype::kI32;
}

// All of a checkpoint, in its order: a weight takes its scales along.
class Items {
 public:
  // `other`: what it is to be held against.
  Items(const Checkpoint& checkpoint, const Checkpoint& other)
      : checkpoint_(checkpoint),
        other_(other),
        tiles_(tile_size(checkpoint.config(), (checkpoint.folder() / "config.json").string())),
        taken_(checkpoint.tensors().size(), false) {
    refuse_foreign_format(checkpoint);
    for (uint32_t index = 0; index < taken_.size(); ++index) take_scales(index);
    for (uint32_t index = 0; index < taken_.size(); ++index) add(index);
    for (size_t index = 0; index < all_.size(); ++index) by_name_.emplace(all_[index].name, index);
  }

  const std::vector<Item>& all() const { return all_; }
  const Item* find(const std::string& name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : &all_[found->second];
  }
  Where where(const Item& item) const {
    return checkpoint_.where(checkpoint_.tensors()[item.linear.weight.tensor]);
  }

 private:
  const Tensor& tensor(uint32_t index) const { return checkpoint_.tensors()[index]; }

  std::optional<LinearParts> weight_at(uint32_t index) const {
    const std::string_view module = module_of_weight(tensor(index).name);
    if (module.empty() || !may_be_weight(tensor(index).dtype)) return std::nullopt;
    return find_linear(checkpoint_, std::string(module), tiles_);
  }

  void take_scales(uint32_t index) {
    const std::optional<LinearParts> parts = weight_at(index);
    if (!parts) return;
    for (const Tensor* part : {parts->scale, parts->scale_2, parts->shape})
      if (part != nullptr) taken_[static_cast<size_t>(part - checkpoint_.tensors().data())] = true;
  }

  // One of experts' linears that `other` stores each by itself.
  void add_expert(uint32_t stack, const std::string& module, uint64_t first_row, uint64_t rows) {
    all_.push_back({.name = module,
                    .format = std::string(dtype_name(tensor(stack).dtype)),
                    .has_values = true,
                    .linear = stacked_source(checkpoint_, stack, first_row, rows)});
  }

  // A layer's experts in one tensor, [experts, rows, in], gates above ups, where `other` has single ones.
  bool add_stack(uint32_t index) {
    constexpr std::string_view kGateUp = ".gate_up_proj", kDown = ".down_proj", kExperts = ".experts";
    const Tensor& own = tensor(index);
    const std::string_view name = own.name;
    const bool is_down = name.ends_with(kDown);
    if (own.shape.size() != 3 || !plain_format(own.dtype)) return false;
    if (!is_down && !name.ends_with(kGateUp)) return false;
    const std::string experts(name.substr(0, name.size() - (is_down ? kDown : kGateUp).size()));
    const auto is_single = [&](const char* weight) {
      return other_.find(experts + (is_down ? ".0.down_proj" : ".0.gate_proj") + weight) != nullptr;
    };
    if (!experts.ends_with(kExperts) || (!is_single(".weight") && !is_single(".weight_packed"))) return false;
    const uint64_t all_rows = own.shape[1], rows = is_down ? all_rows : all_rows / 2;
    for (uint64_t expert = 0; expert < own.shape[0]; ++expert) {
      const std::string module = fmt::format("{}.{}", experts, expert);
      add_expert(index, module + (is_down ? ".down_proj" : ".gate_proj"), expert * all_rows, rows);
      if (!is_down) add_expert(index, module + ".up_proj", expert * all_rows + rows, rows);
    }
    return true;
  }

  void add(uint32_t index) {
    if (taken_[index] || add_stack(index)) return;
    const Tensor& own = tensor(index);
    Item item{.name = own.name, .format = std::string(dtype_name(own.dtype))};
    if (const std::optional<LinearParts> parts = weight_at(index)) {
      item.name = module_of_weight(own.name);
      item.format = parts->container;
      item.linear = source_of(checkpoint_, *parts);
      item.has_values = true;
    } else if (plain_format(own.dtype)) {
      item.linear = plain_source(checkpoint_, index);
      item.has_values = true;
    } else {
      item.linear.weight = {index, 0, own.size_bytes};
    }
    all_.push_back(std::move(item));
  }

  const Checkpoint &checkpoint_, &other_;
  const TileSize tiles_;
  std::vector<bool> taken_;
  std::vector<Item> all_;
  std::unordered_map<std::string, size_t> by_name_;
};

struct Pair {
  const Item *a = nullptr, *b = nullptr;
  bool has_values() const { return a->has_values && b->has_values; }
};

// A part of a pair: rows of values, or bytes.
struct Step {
  size_t pair = 0;
  uint64_t first = 0, count = 0;
};

// One side of the steps, as it is read.
class Side {
 public:
  Side(const Checkpoint& checkpoint, const CompareOptions& options,
       const std::vector<std::vector<Slice>>& steps) {
    std::vector<ReadUnit> units;
    for (const std::vector<Slice>& slices : steps) {
      std::vector<FileRange> ranges;
      for (const Slice& slice : slices) {
        const Tensor& tensor = checkpoint.tensors()[slice.tensor];
        ranges.push_back({tensor.shard, tensor.offset + slice.begin, slice.size_bytes});
        bytes_ += slice.size_bytes;
      }
      MergedRanges merged = merge_ranges(ranges);
      units.push_back(std::move(merged.ranges));
      places_.push_back(std::move(merged.places));
      sizes_.push_back({});
      for (const FileRange& range : ranges) sizes_.back().push_back(range.size_bytes);
    }
    std::vector<std::unique_ptr<File>> files;
    for (const Shard& shard : checkpoint.shards())
      files.push_back(checkpoint.files().open(checkpoint.folder() / shard.name, Access::kReadDirect));
    reader_.emplace(std::move(files), std::move(units), options.memory_bytes / 2, options.read_threads);
  }

  uint64_t bytes() const { return bytes_; }
  // The next step's parts; they live until the call after this.
  std::vector<std::span<const std::byte>> next() {
    loaded_.reset();
    loaded_.emplace(reader_->next());
    std::vector<std::span<const std::byte>> parts;
    for (size_t part = 0; part < places_[step_].size(); ++part) {
      const Place& place = places_[step_][part];
      parts.push_back((*loaded_)[place.range].subspan(place.offset, sizes_[step_][part]));
    }
    ++step_;
    return parts;
  }

 private:
  std::vector<std::vector<Place>> places_;
  std::vector<std::vector<uint64_t>> sizes_;
  uint64_t bytes_ = 0;
  size_t step_ = 0;
  std::optional<Reader> reader_;
  std::optional<Reader::Loaded> loaded_;
};

using Parts = std::vector<std::span<const std::byte>>;

bool same_bytes(const Parts& a, const Parts& b) {
  return std::ranges::equal(a, b, [](std::span<const std::byte> x, std::span<const std::byte> y) {
    return std::ranges::equal(x, y);
  });
}

// Of `rows` rows, in tasks whose results are joined in their order.
ValueErrors compare_rows(const StoredLinear& a, const StoredLinear& b, uint64_t rows) {
  const size_t cols = cols_of(a), tasks = (rows + kRowsTask - 1) / kRowsTask;
  std::vector<ValueErrors> found(tasks);
  parallel_for(tasks, [&](size_t task) {
    thread_local std::vector<float> values_a, values_b;
    values_a.resize(cols);
    values_b.resize(cols);
    const size_t end = std::min<size_t>(rows, (task + 1) * kRowsTask);
    for (size_t row = task * kRowsTask; row < end; ++row) {
      dequantize_rows(a, row, 1, values_a.data(), cols);
      dequantize_rows(b, row, 1, values_b.data(), cols);
      found[task].merge(value_errors(values_a.data(), values_b.data(), cols));
    }
  });
  ValueErrors all;
  for (const ValueErrors& errors : found) all.merge(errors);
  return all;
}

// "layers.3.ffn.experts.12.w1" -> "layers.*.ffn.experts.*.w1"
std::string kind_of(const std::string& name) {
  std::string kind;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    const std::string word = name.substr(begin, end - begin);
    const bool number = !word.empty() && word.find_first_not_of("0123456789") == word.npos;
    kind += (begin == 0 ? "" : ".") + (number ? std::string("*") : word);
    begin = end + 1;
  }
  return kind;
}

class Comparison {
 public:
  Comparison(const Checkpoint& a, const Checkpoint& b, const CompareOptions& options)
      : a_(a), b_(b), options_(options), items_a_(a, b), items_b_(b, a) {
    match();
    for (size_t pair = 0; pair < pairs_.size(); ++pair) add_steps(pair);
  }

  CompareReport run() {
    Side side_a(a_, options_, slices_of(true)), side_b(b_, options_, slices_of(false));
    const uint64_t bytes = side_a.bytes() + side_b.bytes();
    report_.read_bytes = bytes;
    for (size_t step = 0, pair = 0; pair < pairs_.size(); ++pair) {
      begin_pair(pair);
      for (; step < steps_.size() && steps_[step].pair == pair; ++step) {
        const Parts parts_a = side_a.next(), parts_b = side_b.next();
        compare_step(steps_[step], parts_a, parts_b);
        for (const Parts* parts : {&parts_a, &parts_b})
          for (const auto& part : *parts) done_ += part.size();
        if (options_.progress) options_.progress(done_, bytes);
      }
      end_pair(pairs_[pair]);
    }
    finish();
    return std::move(report_);
  }

 private:
  void match() {
    for (const Item& item : items_a_.all()) {
      const Item* other = items_b_.find(item.name);
      if (other == nullptr) {
        report_.only_in_a.push_back(item.name);
        continue;
      }
      require_shape(item, *other);
      pairs_.push_back({&item, other});
    }
    for (const Item& item : items_b_.all())
      if (items_a_.find(item.name) == nullptr) report_.only_in_b.push_back(item.name);
    if (!pairs_.empty()) return;
    throw Error(ErrorKind::kBadInput, {.file = b_.folder().string()},
                fmt::format("has no tensor that {} has", a_.folder().string()),
                {.hint = "are these two of one model, and with the same names?"});
  }

  void require_shape(const Item& a, const Item& b) const {
    const LinearFormat &x = a.linear.format, &y = b.linear.format;
    if (!a.has_values || !b.has_values || (x.rows == y.rows && x.cols == y.cols)) return;
    throw Error(ErrorKind::kBadInput, items_b_.where(b),
                fmt::format("has another shape than in {}", a_.folder().string()),
                {.expected = shape_text({x.rows, x.cols}),
                 .found = shape_text({y.rows, y.cols}),
                 .hint = "are these two of one model?"});
  }

  void add_steps(size_t index) {
    const Pair& pair = pairs_[index];
    if (pair.has_values()) {
      const LinearFormat &a = pair.a->linear.format, &b = pair.b->linear.format;
      const uint64_t unit = std::lcm(a.scale_rows(), b.scale_rows());
      const uint64_t rows =
          std::max<uint64_t>(1, kValuesAtOnce / std::max<uint64_t>(1, a.cols) / unit) * unit;
      for (uint64_t first = 0; a.cols > 0 && first < a.rows; first += rows)
        steps_.push_back({index, first, std::min(rows, a.rows - first)});
      return;
    }
    const uint64_t size = pair.a->linear.weight.size_bytes;
    if (pair.a->format != pair.b->format || size != pair.b->linear.weight.size_bytes) return;
    for (uint64_t first = 0; first < size; first += kBytesAtOnce)
      steps_.push_back({index, first, std::min(kBytesAtOnce, size - first)});
  }

  // What is read of one side, step by step.
  std::vector<std::vector<Slice>> slices_of(bool of_a) const {
    std::vector<std::vector<Slice>> all;
    for (const Step& step : steps_) {
      const Pair& pair = pairs_[step.pair];
      const LinearSource& linear = (of_a ? pair.a : pair.b)->linear;
      std::vector<Slice>& slices = all.emplace_back();
      if (!pair.has_values()) {
        slices.push_back({linear.weight.tensor, linear.weight.begin + step.first, step.count});
        continue;
      }
      linear.for_parts(
          [&](const Slice& part) { slices.push_back(linear.rows_of(part, step.first, step.count)); });
    }
    return all;
  }

  void begin_pair(size_t index) {
    const Pair& pair = pairs_[index];
    errors_ = {};
    // Of what is not compared value by value, steps are missing where it cannot be equal.
    same_bytes_ = pair.has_values()
                      ? pair.a->linear.format == pair.b->linear.format
                      : pair.a->format == pair.b->format &&
                            pair.a->linear.weight.size_bytes == pair.b->linear.weight.size_bytes;
  }

  void compare_step(const Step& step, const Parts& a, const Parts& b) {
    const Pair& pair = pairs_[step.pair];
    const bool same = pair.a->linear.format == pair.b->linear.format && same_bytes(a, b);
    same_bytes_ = same_bytes_ && same;
    if (!pair.has_values()) return;
    pair.a->linear.check(a_, a);
    pair.b->linear.check(b_, b);
    const StoredLinear values_a = pair.a->linear.view(step.count, a);
    errors_.merge(compare_rows(values_a, same ? values_a : pair.b->linear.view(step.count, b), step.count));
  }

  void end_pair(const Pair& pair) {
    ModuleDifference found{.name = pair.a->name, .format_a = pair.a->format, .format_b = pair.b->format};
    found.equal_values = same_bytes_ || (pair.has_values() && errors_.equal);
    if (!found.equal_values) {
      found.snr_db = pair.has_values() ? errors_.snr_db() : -kInfinity;
      found.max_abs = pair.has_values() ? errors_.max_abs : kNaN;
      found.max_rel = pair.has_values() ? errors_.max_rel : kNaN;
    }
    KindDifference& kind = kinds_[{kind_of(found.name), found.format_a, found.format_b}];
    const auto count = [](uint64_t& whole, uint64_t& of_kind) { ++whole, ++of_kind; };
    if (same_bytes_)
      count(report_.equal_bytes, kind.equal_bytes);
    else if (found.equal_values)
      count(report_.equal_values, kind.equal_values);
    else
      count(report_.different, kind.different);
    kind.errors.merge(errors_);
    if (!(found.snr_db >= kind.least_snr_db)) kind.least_snr_db = found.snr_db;
    if (!same_bytes_) report_.modules.push_back(std::move(found));
  }

  void finish() {
    // What has no ratio is worse than any.
    const auto badness = [](const ModuleDifference& module) {
      return std::isnan(module.snr_db) ? -kInfinity : module.snr_db;
    };
    std::ranges::stable_sort(report_.modules, {}, badness);
    for (auto& [key, kind] : kinds_) {
      std::tie(kind.kind, kind.format_a, kind.format_b) = key;
      report_.kinds.push_back(kind);
    }
  }

  const Checkpoint &a_, &b_;
  const CompareOptions& options_;
  const Items items_a_, items_b_;
  std::vector<Pair> pairs_;
  std::vector<Step> steps_;
  std::map<std::tuple<std::string, std::string, std::string>, KindDifference> kinds_;
  CompareReport report_;
  uint64_t done_ = 0;
  // Of the pair in progress.
  bool same_bytes_ = true;
  ValueErrors errors_;
};

}  // namespace

void ValueErrors::merge(const ValueErrors& other) {
  signal += other.signal;
  noise += other.noise;
  // NaN stays.
  if (!(other.max_abs <= max_abs)) max_abs = other.max_abs;
  if (!(other.max_rel <= max_rel)) max_rel = other.max_rel;
  if (std::isnan(noise)) max_abs = max_rel = kNaN;
  equal = equal && other.equal;
}

double ValueErrors::snr_db() const { return equal ? kInfinity : 10 * std::log10(signal / noise); }

ValueErrors value_errors(const float* a, const float* b, size_t count) {
  ValueErrors errors;
  for (size_t i = 0; i < count; ++i) {
    const double x = a[i], y = b[i];
    if (std::isfinite(x)) errors.signal += x * x;
    if (x == y || (std::isnan(x) && std::isnan(y))) continue;
    errors.equal = false;
    const double error = std::isfinite(x) && std::isfinite(y) ? std::fabs(x - y) : kNaN;
    errors.noise += error * error;
    errors.max_abs = std::max(errors.max_abs, error);
    if (x != 0) errors.max_rel = std::max(errors.max_rel, error / std::fabs(x));
  }
  if (std::isnan(errors.noise)) errors.max_abs = errors.max_rel = kNaN;
  return errors;
}

CompareReport compare(const Checkpoint& a, const Checkpoint& b, const CompareOptions& options) {
  return Comparison(a, b, options).run();
}

}  // namespace nibblecast
