#include "calibration/rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "base/error.h"
#include "calibration/record_stream.h"

namespace nibblecast {
namespace {

using Ids = std::vector<int32_t>;

// Text to ids by the policy for the BOS.
class Encoder {
 public:
  Encoder(const TokenizerSource& source, int64_t bos, uint64_t vocab_size, BosPolicy policy)
      : source_(source), bos_(bos), vocab_size_(vocab_size), policy_(policy) {}

  // All ids from the first to the `count`th.
  Ids encode_head(const Record& record, uint64_t count) {
    // With so much room more, truncation leaves what stands in front as it is.
    const uint64_t around = tokenizer(record.place).encode("").size();
    Ids ids = encode(record, count > SIZE_MAX - around ? SIZE_MAX : count + around);
    if (ids.size() > count) ids.resize(count);
    return ids;
  }

  // Truncated to `max_ids` counting special tokens, which stay.
  Ids encode(const Record& record, uint64_t max_ids) {
    Ids ids = tokenizer(record.place).encode(record.text, policy_ != BosPolicy::kNever, max_ids);
    add_bos(record.place, ids);
    if (ids.size() > max_ids) ids.resize(max_ids);
    const auto outside = std::find_if(ids.begin(), ids.end(),
                                      [&](int32_t id) { return std::cmp_greater_equal(id, vocab_size_); });
    if (outside != ids.end()) {
      fail_record(
          record.place,
          fmt::format("the tokenizer gives id {}, the model has vocab_size {}", *outside, vocab_size_),
          {.hint = "is tokenizer.json the model's own?"});
    }
    return ids;
  }

 private:
  const Tokenizer& tokenizer(const RecordPlace& place) {
    if (tokenizer_ == nullptr) tokenizer_ = source_();
    if (tokenizer_ == nullptr) {
      fail_record(place, "a text, but there is no tokenizer",
                  {.hint = "put tokenizer.json into the checkpoint's folder, or give input_ids"});
    }
    return *tokenizer_;
  }

  void add_bos(const RecordPlace& place, Ids& ids) const {
    if (policy_ == BosPolicy::kNever || (!ids.empty() && ids.front() == bos_)) return;
    if (bos_ >= 0 && std::cmp_less(bos_, vocab_size_)) {
      ids.insert(ids.begin(), static_cast<int32_t>(bos_));
    } else if (policy_ == BosPolicy::kAlways || bos_ >= 0) {
      fail_record(place, "there is no BOS to put before the text",
                  {.expected = fmt::format("a bos_token_id below {} (vocab_size)", vocab_size_),
                   .found = std::to_string(bos_),
                   .hint = "see bos_token_id in config.json"});
    }
  }

  const TokenizerSource& source_;
  const Tokenizer* tokenizer_ = nullptr;
  int64_t bos_;
  uint64_t vocab_size_;
  BosPolicy policy_;
};

// Gathers the records of one set into rows until there are enough.
class Collector {
 public:
  Collector(const RowsOptions& options, const CalibrationSet& set, Encoder& encoder)
      : options_(options), set_(set), encoder_(encoder) {}

  bool is_full() const { return (is_packed() ? rows_.ids.size() : texts_) >= set_.count; }

  void add(Record record) {
    ++texts_;
    Ids ids;
    if (record.ids) {
      ids = std::move(*record.ids);
    } else if (!record.text.empty()) {
      ids = is_packed() ? encoder_.encode_head(record, missing_ids())
                        : encoder_.encode(record, options_.length);
    }
    if (ids.empty()) {
      ++empty_;
    } else if (is_packed()) {
      pack(ids);
    } else {
      if (ids.size() > options_.length) ids.resize(options_.length);
      rows_.ids.push_back(std::move(ids));
    }
  }

  CalibrationRows finish() {
    if (!is_full() && !set_.rest.empty()) {
      throw Error(ErrorKind::kBadInput, {.file = set_.name},
                  "the files that are here hold less than is asked for",
                  {.expected = fmt::format("{} {}", set_.count, is_packed() ? "rows" : "texts"),
                   .found = fmt::format("{}", is_packed() ? rows_.ids.size() : texts_),
                   .hint = set_.rest});
    }
    if (empty_ > 0) {
      rows_.warnings.push_back(
          fmt::format("{}: {} of {} texts are empty and were dropped", set_.name, empty_, texts_));
    }
    if (rows_.ids.size() < set_.count) {
      rows_.warnings.push_back(
          fmt::format("asked for {} rows, {} gives {}", set_.count, set_.name, rows_.ids.size()));
    }
    return std::move(rows_);
  }

  // Why there are none.
  Error no_rows() const {
    Detail detail;
    if (is_packed()) {
      detail = {.expected = fmt::format("at least {} tokens for one row", options_.length),
                .found = std::to_string(open_.size())};
    } else {
      detail.found = fmt::format("{} texts, none with any token", texts_);
    }
    return {ErrorKind::kBadInput, {.file = set_.name}, "no calibration rows", std::move(detail)};
  }

 private:
  bool is_packed() const { return options_.policy == RowsPolicy::kPacked; }

  // How many ids the rows asked for still lack; saturates.
  uint64_t missing_ids() const {
    const uint64_t rows = set_.count - rows_.ids.size();
    return rows > SIZE_MAX / options_.length ? SIZE_MAX : rows * options_.length - open_.size();
  }

  void pack(const Ids& ids) {
    for (size_t begin = 0; begin < ids.size() && !is_full();) {
      const size_t taken =
          static_cast<size_t>(std::min<uint64_t>(options_.length - open_.size(), ids.size() - begin));
      const auto from = ids.begin() + static_cast<std::ptrdiff_t>(begin);
      open_.insert(open_.end(), from, from + static_cast<std::ptrdiff_t>(taken));
      begin += taken;
      if (open_.size() == options_.length) rows_.ids.push_back(std::exchange(open_, {}));
    }
  }

  const RowsOptions& options_;
  const CalibrationSet& set_;
  Encoder& encoder_;
  CalibrationRows rows_;
  Ids open_;  // packed: the row being filled
  uint64_t texts_ = 0;
  uint64_t empty_ = 0;
};

}  // namespace

uint64_t CalibrationRows::tokens() const {
  uint64_t sum = 0;
  for (const Ids& row : ids) sum += row.size();
  return sum;
}

uint64_t CalibrationRows::longest() const {
  size_t longest = 0;
  for (const Ids& row : ids) longest = std::max(longest, row.size());
  return longest;
}

CalibrationRows read_rows(FileSystem& files, std::span<const CalibrationSet> sets,
                          const TokenizerSource& tokenizer, int64_t bos_token_id, uint64_t vocab_size,
                          const RowsOptions& options) {
  if (options.length == 0) throw Error(ErrorKind::kUsage, {}, "a row needs at least one token");
  Encoder encoder(tokenizer, bos_token_id, vocab_size, options.bos);
  CalibrationRows all;
  std::optional<Error> no_rows;
  for (const CalibrationSet& set : sets) {
    Collector collector(options, set, encoder);
    for (const std::string& file : set.files) {
      if (collector.is_full()) break;
      const auto records = open_records(files, file, {.vocab_size = vocab_size, .column = set.column});
      while (!collector.is_full()) {
        auto record = records->next();
        if (!record) break;
        collector.add(std::move(*record));
      }
    }
    CalibrationRows rows = collector.finish();
    if (rows.ids.empty()) no_rows = collector.no_rows();
    std::move(rows.ids.begin(), rows.ids.end(), std::back_inserter(all.ids));
    std::move(rows.warnings.begin(), rows.warnings.end(), std::back_inserter(all.warnings));
  }
  if (all.ids.empty()) throw no_rows ? *no_rows : Error(ErrorKind::kUsage, {}, "no calibration sets");
  return all;
}

}  // namespace nibblecast
