#include "pipeline/verify_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <optional>

#include "base/buffer.h"
#include "base/parallel.h"
#include "formats/nonfinite.h"
#include "pipeline/extents.h"
#include "pipeline/group_maker.h"
#include "pipeline/group_parts.h"
#include "pipeline/reader.h"
#include "pipeline/units.h"
#include "pipeline/verify_blocks.h"
#include "plan/linear.h"

namespace nibblecast {
namespace {

constexpr uint64_t kUnitBytes = 16 << 20;  // of kept bytes
constexpr size_t kUnitPieces = 64;
constexpr uint64_t kLargestValue = 8;
constexpr uint64_t kRowsPerTask = 64;

// Bytes [begin, begin + size_bytes) of a kept tensor.
struct KeptPiece {
  uint32_t planned = 0;  // index into Plan::tensors
  uint64_t begin = 0, size_bytes = 0;
};

// Read and compared at once: some kept pieces, or linears of a group, or rows of a lone one.
struct Step {
  std::vector<KeptPiece> pieces;
  const PlannedGroup* group = nullptr;
  uint64_t first_row = 0, rows = 0;  // of the group's only linear; 0 rows: whole linears
  std::vector<bool> comparable;      // of the group's linears: all of them are there in the output
  ReadUnit reads;
  std::vector<Place> places;  // pieces: source, output alternating; group: see add_group
  uint32_t shard = 0;         // of the source
};

struct Difference {
  uint64_t bytes = 0, first = 0;
};

Difference compare_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  Difference difference;
  if (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0) return difference;
  for (size_t at = 0; at < a.size(); ++at) {
    if (a[at] == b[at]) continue;
    if (difference.bytes++ == 0) difference.first = at;
  }
  return difference;
}

// Largest E8M0 byte but NaN, as k; written out, since scan_scales() is what the writer used.
int plain_k_max(const std::vector<std::span<const std::byte>>& scales) {
  uint8_t largest = 0;
  for (const auto& part : scales) {
    for (const std::byte scale : part) {
      if (scale != std::byte{255}) largest = std::max(largest, static_cast<uint8_t>(scale));
    }
  }
  return largest == 0 ? 0 : int{largest} - 127;
}

const uint8_t* bytes_of(std::span<const std::byte> span) {
  return reinterpret_cast<const uint8_t*>(span.data());
}

class DataChecker {
 public:
  DataChecker(const DataCheck& check, ProblemList& problems, VerifyReport& report)
      : check_(check), plan_(check.plan), problems_(problems), report_(report) {}

  void run() {
    list_kept();
    for (const Stage& stage : plan_.stages) {
      for (const PlannedGroup& group : stage.groups) add_group(group);
    }
    std::ranges::stable_sort(
        units_, {}, [](const Step& unit) { return std::pair(unit.reads[0].file, unit.reads[0].begin); });
    compare_all();
    report_kept();
    report_nonfinite();
    report_made();
    report_mixed_signs();
  }

 private:
  size_t source_files() const { return check_.source.shards().size(); }
  const Tensor& source_tensor(uint32_t planned) const {
    return check_.source.tensors()[*plan_.tensors[planned].source];
  }
  const std::string& name(uint32_t planned) const { return plan_.tensors[planned].out.name; }
  FileRange source_range(const Tensor& tensor) const {
    return {tensor.shard, tensor.offset, tensor.size_bytes};
  }
  // The reader's files are the source's shards, then the output's.
  FileRange output_range(const Tensor& tensor) const {
    return {static_cast<uint32_t>(source_files() + tensor.shard), tensor.offset, tensor.size_bytes};
  }

  void list_kept() {
    Step unit;
    uint64_t bytes = 0;
    const auto flush = [&] {
      if (!unit.pieces.empty()) finish_kept(std::move(unit));
      unit = {};
      bytes = 0;
    };
    for (uint32_t planned = 0; planned < plan_.tensors.size(); ++planned) {
      if (plan_.tensors[planned].make != Make::kKeep || check_.matches[planned] == nullptr) continue;
      const uint64_t size = source_tensor(planned).size_bytes;
      for (uint64_t begin = 0; begin < size;) {
        // Cut at whole values.
        const uint64_t piece = std::min(size - begin, round_down(kUnitBytes - bytes, kLargestValue));
        unit.pieces.push_back({planned, begin, piece});
        begin += piece;
        bytes += piece;
        if (bytes + kLargestValue > kUnitBytes || unit.pieces.size() == kUnitPieces) flush();
      }
    }
    flush();
  }

  void finish_kept(Step unit) {
    std::vector<FileRange> ranges;
    for (const KeptPiece& piece : unit.pieces) {
      for (FileRange range :
           {source_range(source_tensor(piece.planned)), output_range(*check_.matches[piece.planned])}) {
        ranges.push_back({range.file, range.begin + piece.begin, piece.size_bytes});
      }
    }
    unit.shard = source_tensor(unit.pieces[0].planned).shard;
    finish(std::move(unit), ranges);
  }

  Make make_of(const PlannedLinear& linear) const { return plan_.tensors[linear.weight].make; }

  void add_group(const PlannedGroup& group) {
    const auto is_kept = [&](const PlannedLinear& linear) { return make_of(linear) == Make::kKeep; };
    if (std::ranges::all_of(group.linears, is_kept)) return;
    const uint64_t all_rows = group.linears[0].source.format.rows;
    const uint64_t rows = rows_at_once(plan_, group);
    if (rows == 0) {
      add_rows(group, 0, 0);
      return;
    }
    for (uint64_t row = 0; row < all_rows; row += rows) add_rows(group, row, std::min(rows, all_rows - row));
  }

  OutputRange output_part(const Step& unit, uint32_t index) const {
    return output_rows(plan_.tensors[index].out, unit.first_row, unit.rows);
  }
  // Of a matched tensor, whose place need not be the planned one.
  FileRange output_range(const Step& unit, uint32_t index) const {
    const Tensor& found = *check_.matches[index];
    const OutputRange range = output_rows(found, unit.first_row, unit.rows);
    return {static_cast<uint32_t>(source_files() + found.shard), range.begin, range.size_bytes};
  }

  // Places: of each linear what the source has of weight, scale and scale_2; then, of each that can be
  // compared, what the output has of weight and block scales. Kept linears were listed with the kept tensors.
  void add_rows(const PlannedGroup& group, uint64_t first_row, uint64_t rows) {
    Step unit{.pieces = {},
              .group = &group,
              .first_row = first_row,
              .rows = rows,
              .comparable = {},
              .reads = {},
              .places = {}};
    std::vector<FileRange> ranges = group_ranges(check_.source, group, first_row, rows);
    for (const PlannedLinear& linear : group.linears) {
      const auto there = [&](uint32_t index) { return index == kNone || check_.matches[index] != nullptr; };
      unit.comparable.push_back(there(linear.weight) && there(linear.block_scale) &&
                                there(linear.weight_scale));
      if (!unit.comparable.back()) continue;
      for (const uint32_t index : {linear.weight, linear.block_scale}) {
        if (index != kNone) ranges.push_back(output_range(unit, index));
      }
    }
    unit.shard = check_.source.tensors()[group.linears[0].source.weight.tensor].shard;
    finish(std::move(unit), ranges);
  }

  void finish(Step unit, const std::vector<FileRange>& ranges) {
    MergedRanges merged = merge_ranges(ranges);
    unit.reads = std::move(merged.ranges);
    unit.places = std::move(merged.places);
    units_.push_back(std::move(unit));
  }

  void compare_all() {
    std::vector<std::unique_ptr<File>> files;
    for (const Shard& shard : check_.source.shards()) {
      files.push_back(check_.source.files().open(check_.source.folder() / shard.name, Access::kReadDirect));
    }
    for (const std::string& shard : check_.output.shards) {
      files.push_back(check_.files.open(check_.output.path / shard, Access::kReadDirect));
    }
    std::vector<ReadUnit> reads;
    uint64_t total = 0, done = 0;
    for (const Step& unit : units_) {
      reads.push_back(unit.reads);
      for (const FileRange& range : unit.reads) total += range.size_bytes;
    }
    Reader reader(std::move(files), std::move(reads), check_.options.memory_bytes);
    for (const Step& unit : units_) {
      {
        const Reader::Loaded loaded = reader.next();
        unit.group == nullptr ? compare_kept(unit, loaded) : compare_group(unit, loaded);
      }
      for (const FileRange& range : unit.reads) done += range.size_bytes;
      report_progress(unit, done, total);
    }
  }

  void report_progress(const Step& unit, uint64_t done, uint64_t total) const {
    if (!check_.options.progress) return;
    check_.options.progress({.stage = check_.source.shards()[unit.shard].name,
                             .stages_done = unit.shard,
                             .stages = source_files(),
                             .bytes_done = done,
                             .bytes = total});
  }

  static std::span<const std::byte> at(const Step& unit, const Reader::Loaded& loaded, size_t place,
                                       uint64_t size) {
    return loaded[unit.places[place].range].subspan(unit.places[place].offset, size);
  }

  void compare_kept(const Step& unit, const Reader::Loaded& loaded) {
    std::vector<Difference> differences(unit.pieces.size());
    std::vector<NonFinite> nonfinite(unit.pieces.size());
    parallel_for(unit.pieces.size(), [&](size_t index) {
      const uint64_t size = unit.pieces[index].size_bytes;
      nonfinite[index] = count_nonfinite(plan_.tensors[unit.pieces[index].planned].out.dtype,
                                         at(unit, loaded, 2 * index, size));
      differences[index] =
          compare_bytes(at(unit, loaded, 2 * index, size), at(unit, loaded, 2 * index + 1, size));
    });
    for (size_t index = 0; index < unit.pieces.size(); ++index) {
      const KeptPiece& piece = unit.pieces[index];
      report_.kept_bytes += piece.size_bytes;
      add_difference(piece.planned, piece.begin, differences[index], changed_);
      if (nonfinite[index].count > 0) nonfinite_[piece.planned].add(nonfinite[index], piece.begin);
    }
  }

  struct Stored {
    StoredLinear source;
    std::span<const std::byte> weight, block_scale;  // of the output, if it can be compared
  };

  std::vector<Stored> stored_of(const Step& unit, const Reader::Loaded& loaded) const {
    size_t place = 0;
    std::vector<std::span<const std::byte>> parts;
    for (const FileRange& range : group_ranges(check_.source, *unit.group, unit.first_row, unit.rows))
      parts.push_back(at(unit, loaded, place++, range.size_bytes));
    std::vector<Stored> stored;
    for (StoredLinear& view : group_views(*unit.group, unit.rows, [&](size_t part) { return parts[part]; }))
      stored.push_back({.source = view, .weight = {}, .block_scale = {}});
    for (size_t index = 0; index < stored.size(); ++index) {
      if (!unit.comparable[index]) continue;
      const PlannedLinear& linear = unit.group->linears[index];
      const auto next = [&](uint32_t tensor) {
        return at(unit, loaded, place++, output_part(unit, tensor).size_bytes);
      };
      stored[index].weight = next(linear.weight);
      if (linear.block_scale != kNone) stored[index].block_scale = next(linear.block_scale);
    }
    return stored;
  }

  void compare_group(const Step& unit, const Reader::Loaded& loaded) {
    const std::vector<Stored> stored = stored_of(unit, loaded);
    const auto is_cast = [&](const PlannedLinear& linear) { return make_of(linear) == Make::kCastWeight; };
    compare_cast(unit, stored);
    if (!std::ranges::all_of(unit.group->linears, is_cast)) compare_made(unit, stored);
  }

  // Cast linears by their values, block by block.
  void compare_cast(const Step& unit, const std::vector<Stored>& stored) {
    const std::vector<PlannedLinear>& linears = unit.group->linears;
    for (size_t index = 0; index < linears.size(); ++index) {
      if (!unit.comparable[index] || make_of(linears[index]) != Make::kCastWeight) continue;
      const CastPair pair = {.source = std::get<Mxfp4View>(stored[index].source),
                             .codes = bytes_of(stored[index].weight),
                             .block_scales = bytes_of(stored[index].block_scale),
                             .scale_2 = check_.scales[linears[index].weight_scale],
                             .k_max = plain_k_max_of(linears, stored, linears[index].share),
                             .negative_zero = check_.negative_zero};
      check_scale_2(linears[index], pair);
      report_linear(linears[index], compare_linear(pair));
    }
  }

  // Everything else must be, to the byte, what the plain code makes of the source.
  void compare_made(const Step& unit, const std::vector<Stored>& stored) {
    std::vector<std::vector<std::byte>> weights(stored.size()), scales(stored.size());
    std::vector<LinearTask> tasks;
    for (size_t index = 0; index < stored.size(); ++index) {
      const PlannedLinear& linear = unit.group->linears[index];
      weights[index].resize(output_part(unit, linear.weight).size_bytes);
      if (linear.block_scale != kNone) scales[index].resize(plan_.tensors[linear.block_scale].out.size_bytes);
      tasks.push_back(
          {.linear = &linear,
           .source = stored[index].source,
           .first_row = unit.first_row,
           .weight = weights[index],
           .block_scale = scales[index]});
    }
    std::vector<MadeLinear> made;
    try {
      made = make_group(check_.source, plan_, tasks, Kernels::kReference);
    } catch (const Error& error) {
      problems_.add("source", error.what());
      return;
    }
    for (size_t index = 0; index < stored.size(); ++index) {
      const PlannedLinear& linear = unit.group->linears[index];
      if (!unit.comparable[index] || make_of(linear) == Make::kCastWeight || make_of(linear) == Make::kKeep)
        continue;
      const uint64_t begin =
          output_part(unit, linear.weight).begin - plan_.tensors[linear.weight].out.offset;
      compare_tensor(linear.weight, begin, stored[index].weight, weights[index]);
      if (linear.block_scale != kNone)
        compare_tensor(linear.block_scale, 0, stored[index].block_scale, scales[index]);
      if (make_of(linear) == Make::kMxfp4Weight || made[index].counts.blocks.blocks > 0)
        compare_values(linear, stored[index], made[index].counts.blocks);
      const float found =
          linear.weight_scale == kNone ? made[index].weight_scale : check_.scales[linear.weight_scale];
      if (found == made[index].weight_scale) continue;
      problems_.add("weight scales", fmt::format("{}: must be {}; found {}", name(linear.weight_scale),
                                                 made[index].weight_scale, found));
    }
  }

  // `found` begins at byte `begin` of the tensor.
  void compare_tensor(uint32_t planned, uint64_t begin, std::span<const std::byte> found,
                      std::span<const std::byte> expected) {
    report_.made_bytes += found.size();
    add_difference(planned, begin, compare_bytes(expected, found), made_wrong_);
  }

  static void add_difference(uint32_t planned, uint64_t begin, const Difference& difference,
                             std::map<uint32_t, Difference>& sums) {
    if (difference.bytes == 0) return;
    Difference& tensor = sums[planned];
    if (tensor.bytes == 0 || begin + difference.first < tensor.first) tensor.first = begin + difference.first;
    tensor.bytes += difference.bytes;
  }

  // A weight with another's codes and exponents: by the formats' definitions both must have the same values.
  // `blocks`: of one that was cast to NVFP4; those outside the window lose theirs.
  void compare_values(const PlannedLinear& linear, const Stored& stored, const CastCounts& blocks) {
    const Wrong wrong = count_wrong(stored.source, output_of(linear, stored));
    report_.blocks += blocks.blocks;
    report_.requantized_blocks += blocks.outside_window;
    if (blocks.blocks > 0) report_.identical_blocks += blocks.blocks - wrong.blocks;
    if (wrong.values == 0 || blocks.outside_window > 0) return;
    problems_.add("made tensors",
                  fmt::format("{}: {} of {} values are not the source's", name(linear.weight), wrong.values,
                              rows_of(stored.source) * cols_of(stored.source)));
  }

  struct Wrong {
    uint64_t values = 0, blocks = 0;  // blocks of 32
  };

  static Wrong count_wrong(const StoredLinear& source, const StoredLinear& output) {
    const size_t rows = rows_of(source), cols = cols_of(source);
    std::vector<Wrong> wrong((rows + kRowsPerTask - 1) / kRowsPerTask);
    parallel_for(wrong.size(), [&](size_t task) {
      const size_t row = task * kRowsPerTask, count = std::min<size_t>(kRowsPerTask, rows - row);
      std::vector<float> expected(count * cols), found(count * cols);
      dequantize_rows_ref(source, row, count, expected.data(), cols);
      dequantize_rows_ref(output, row, count, found.data(), cols);
      for (size_t block = 0; block < expected.size(); block += 32) {
        uint64_t values = 0;
        for (size_t at = block; at < block + 32; ++at) values += !(expected[at] == found[at]);
        wrong[task].values += values;
        wrong[task].blocks += values > 0;
      }
    });
    Wrong sum;
    for (const Wrong& part : wrong) sum.values += part.values, sum.blocks += part.blocks;
    return sum;
  }

  // As it was found: MXFP4, or NVFP4.
  StoredLinear output_of(const PlannedLinear& linear, const Stored& stored) const {
    const size_t rows = rows_of(stored.source), cols = cols_of(stored.source);
    const uint8_t *codes = bytes_of(stored.weight), *scales = bytes_of(stored.block_scale);
    if (linear.weight_scale == kNone) return Mxfp4View{codes, scales, rows, cols};
    return Nvfp4View{codes, scales, check_.scales[linear.weight_scale], rows, cols};
  }

  static int plain_k_max_of(const std::vector<PlannedLinear>& linears, const std::vector<Stored>& stored,
                            uint8_t share) {
    std::vector<std::span<const std::byte>> scales;
    for (size_t index = 0; index < linears.size(); ++index) {
      const auto* view = std::get_if<Mxfp4View>(&stored[index].source);
      if (linears[index].share != share || view == nullptr) continue;
      scales.push_back(std::as_bytes(std::span(view->scales, view->rows * view->cols / 32)));
    }
    return plain_k_max(scales);
  }

  void check_scale_2(const PlannedLinear& linear, const CastPair& pair) {
    const float right = std::ldexp(1.0f, pair.k_max - 8);
    if (pair.scale_2 == right) return;
    problems_.add("weight_scale_2", fmt::format("{}: must be {} by the source's scales; found {}",
                                                name(linear.weight_scale), right, pair.scale_2));
  }

  static BlockCounts compare_linear(const CastPair& pair) {
    const BlockChecker checker(pair);
    const uint64_t rows = pair.source.rows;
    std::vector<BlockCounts> counts((rows + kRowsPerTask - 1) / kRowsPerTask);
    parallel_for(counts.size(), [&](size_t task) {
      const uint64_t row = task * kRowsPerTask;
      counts[task] = checker.check(row, std::min(kRowsPerTask, rows - row));
    });
    BlockCounts sum;
    for (const BlockCounts& part : counts) sum.merge(part);
    return sum;
  }

  void report_linear(const PlannedLinear& linear, const BlockCounts& counts) {
    report_.blocks += counts.blocks;
    report_.identical_blocks += counts.identical;
    report_.requantized_blocks += counts.requantized;
    const auto add = [&](BlockFault fault, std::string_view kind, const std::string& tensor,
                         std::string_view problem) {
      const FaultCount& count = counts[fault];
      if (count.blocks == 0) return;
      problems_.add(
          kind, fmt::format("{}: in {} of {} blocks {}; first at row {}, column {}: expected {}, found {}",
                            tensor, count.blocks, counts.blocks, problem, count.row, count.col,
                            count.expected, count.found));
    };
    const std::string &weight = name(linear.weight), &scale = name(linear.block_scale);
    add(BlockFault::kSourceScaleNan, "source scales", check_.source.tensors()[linear.source.scale.tensor].name,
        "the source's scale is NaN");
    add(BlockFault::kScaleNan, "block scales", scale, "the scale is NaN");
    add(BlockFault::kScaleNegative, "block scales", scale, "the scale is negative");
    add(BlockFault::kScale, "block scales", scale, "the scale is not what the cast makes of the source's");
    add(BlockFault::kValue, "expert weights", weight, "a value is not the source's");
    add(BlockFault::kZeroSign, "expert weights", weight, "a zero has the wrong sign");
    add(BlockFault::kRequantized, "expert weights", weight,
        "a requantized value is not what the rule makes of the source's");
    note_requantized(weight, counts);
    if (check_.negative_zero) return;
    if (counts.signs_kept > 0) kept_signs_.push_back(linear.weight);
    if (counts.signs_cleared > 0) cleared_signs_.push_back(linear.weight);
  }

  void note_requantized(const std::string& weight, const BlockCounts& counts) {
    if (counts.requantized == 0) return;
    const double relative =
        counts.value_squared > 0 ? std::sqrt(counts.error_squared / counts.value_squared) : 0;
    const bool all_zeroed = counts.zeroed == counts.requantized;
    std::string error;
    if (counts.zeroed > 0)
      error = all_zeroed ? "; all of their values became 0" : fmt::format("; {} became all 0", counts.zeroed);
    if (!all_zeroed) error += fmt::format("; error {:.3g} relative to the norm of these blocks", relative);
    report_.notes.push_back(fmt::format(
        "{}: {} of {} blocks lie outside the cast's window and were requantized{}, at most {:.3g} off",
        weight, counts.requantized, counts.blocks, error, counts.largest_error));
  }

  void report_kept() {
    for (const auto& [planned, difference] : changed_) {
      problems_.add(
          "kept tensors",
          fmt::format("{}: {} of {} bytes differ from the source's, the first at byte {} of the tensor",
                      name(planned), difference.bytes, source_tensor(planned).size_bytes, difference.first));
    }
  }

  void report_nonfinite() {
    for (const auto& [planned, found] : nonfinite_) {
      report_.notes.push_back(
          fmt::format("{}: {} values of the source are NaN or infinite, the first at byte {} of the tensor",
                      name(planned), found.count, found.first));
    }
  }

  void report_made() {
    for (const auto& [planned, difference] : made_wrong_) {
      problems_.add(
          "made tensors",
          fmt::format("{}: {} of {} bytes are not what {} makes of the source, the first at byte "
                      "{} of the tensor",
                      name(planned), difference.bytes, plan_.tensors[planned].out.size_bytes,
                      plan_.command == "quantize" ? "the recipe" : plan_.command, difference.first));
    }
  }

  // Either policy is right where none is recorded, but not both in one output.
  void report_mixed_signs() {
    if (kept_signs_.empty() || cleared_signs_.empty()) return;
    const bool kept_is_odd = kept_signs_.size() < cleared_signs_.size();
    for (const uint32_t planned : kept_is_odd ? kept_signs_ : cleared_signs_) {
      problems_.add("expert weights",
                    fmt::format("{}: {} the sign of zeros that other weights {}", name(planned),
                                kept_is_odd ? "keeps" : "loses", kept_is_odd ? "lose" : "keep"));
    }
  }

  const DataCheck& check_;
  const Plan& plan_;
  ProblemList& problems_;
  VerifyReport& report_;
  std::vector<Step> units_;
  std::map<uint32_t, Difference> changed_;     // kept tensors
  std::map<uint32_t, NonFinite> nonfinite_;    // kept tensors
  std::map<uint32_t, Difference> made_wrong_;  // weights and block scales
  std::vector<uint32_t> kept_signs_, cleared_signs_;
};

}  // namespace

void check_data(const DataCheck& check, ProblemList& problems, VerifyReport& report) {
  DataChecker(check, problems, report).run();
}

}  // namespace nibblecast
