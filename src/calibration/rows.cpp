#include "calibration/rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>
#include <utility>

#include "base/error.h"
#include "calibration/joined_records.h"
#include "calibration/record_stream.h"

namespace nibblecast {
namespace {

using Ids = std::vector<int32_t>;

// The text of a record in parts that are small beside what is held of one.
TextParts parts_of(const Record& record) {
  constexpr size_t kPartBytes = 64 << 10;
  return [&record, at = size_t{0}](std::string& to) mutable {
    const std::string& text = record.text;
    if (at == text.size()) return record.more && record.more(to);
    size_t end = std::min(at + kPartBytes, text.size());
    while (end < text.size() && (static_cast<uint8_t>(text[end]) & 0xC0) == 0x80) --end;
    to.append(text, at, end - at);
    at = end;
    return true;
  };
}

// Text to ids by the policy for the BOS.
class Encoder {
 public:
  Encoder(const TokenizerSource& source, int64_t bos, uint64_t vocab_size, const RowsOptions& options)
      : source_(source), bos_(bos), vocab_size_(vocab_size), policy_(options.bos) {
    const uint64_t room = options.memory_bytes - std::min(options.memory_bytes, kReadingBytes);
    max_word_bytes_ =
        std::clamp<uint64_t>(room / kEncodingBytesPerByte, kLeastWordBytes, EncodeOptions::kMostWordBytes);
  }

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
    Ids ids = tokenizer(record.place)
                  .encode(parts_of(record), {.add_special_tokens = policy_ != BosPolicy::kNever,
                                             .max_ids = max_ids,
                                             .max_held_bytes = max_word_bytes_,
                                             .origin = record.place.origin});
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
  uint64_t max_word_bytes_ = 0;
};

// Gathers the records of one set into rows until there are enough.
class Collector {
 public:
  Collector(const RowsOptions& options, const CalibrationSet& set, Encoder& encoder)
      : options_(options), set_(set), encoder_(encoder) {}

  bool is_full() const { return (is_packed() ? rows_.ids.size() : texts_) >= set_.count; }

  // Of a stream that is not read where there are enough.
  void add_all(RecordStream& records) {
    while (!is_full()) {
      auto record = records.next();
      if (!record) return;
      add(std::move(*record));
    }
  }

  void add(Record record) {
    ++texts_;
    Ids ids = ids_of(record);
    count(ids.size());
    if (ids.empty()) {
      ++empty_;
    } else if (is_packed()) {
      pack(ids);
    } else {
      if (ids.size() > options_.length) ids.resize(options_.length);
      ids.shrink_to_fit();
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
      rows_.warnings.push_back(fmt::format("{}: {} of {} texts {} empty and dropped", set_.name, empty_,
                                           texts_, empty_ == 1 ? "is" : "are"));
    }
    warn_of_missing_rows();
    return std::move(rows_);
  }

  // Why there are none.
  Error no_rows() const {
    Detail detail;
    if (is_packed()) {
      detail = {.expected = fmt::format("at least {} tokens for one row", options_.length),
                .found = std::to_string(open_.size()),
                .hint = "--calib-seq N makes shorter rows, --calib-rows docs a row a text"};
    } else {
      detail.found = fmt::format("{} texts, none with any token", texts_);
    }
    return {ErrorKind::kBadInput, {.file = set_.name}, "no rows can be made of it", std::move(detail)};
  }

 private:
  bool is_packed() const { return options_.policy == RowsPolicy::kPacked; }

  // How many ids the rows asked for still lack; saturates.
  uint64_t missing_ids() const {
    const uint64_t rows = set_.count - rows_.ids.size();
    return rows > SIZE_MAX / options_.length ? SIZE_MAX : rows * options_.length - open_.size();
  }

  Ids ids_of(Record& record) {
    if (record.ids) return std::move(*record.ids);
    if (record.is_whole_file && !is_packed()) return row_of_file(record);
    if (record.text.empty() && !record.more) return {};
    return is_packed() ? encoder_.encode_head(record, missing_ids())
                       : encoder_.encode(record, options_.length);
  }

  // One row of a plain text; says how much of it is left out.
  Ids row_of_file(Record& record) {
    constexpr size_t kSampleBytes = 64 << 10;
    bool is_all = false;
    while (!is_all && record.text.size() < kSampleBytes) is_all = !record.more(record.text);
    Ids ids = encoder_.encode(record, options_.length);
    if (ids.size() < options_.length) return ids;
    const uint64_t seen = encoder_.encode({.place = record.place, .text = record.text}, SIZE_MAX).size();
    if (is_all && seen == ids.size()) return ids;
    rows_.warnings.push_back(
        fmt::format("used {} of {} tokens of {}; --calib-rows packed uses them all, up to --calib-size rows",
                    ids.size(), tokens_text(record, seen, is_all), set_.name));
    has_unused_text_ = true;
    return ids;
  }

  // How many tokens a file has of whose beginning, `record.text`, there are `seen`.
  static std::string tokens_text(const Record& record, uint64_t seen, bool is_all) {
    if (is_all) return std::to_string(seen);
    if (!record.file_bytes) return fmt::format("more than {}", seen);
    const double share = static_cast<double>(*record.file_bytes) / static_cast<double>(record.text.size());
    return fmt::format("about {}", rounded(static_cast<double>(seen) * share));
  }

  // To two digits.
  static uint64_t rounded(double number) {
    const double unit = std::pow(10, std::floor(std::log10(number)) - 1);
    return static_cast<uint64_t>(std::round(number / unit) * unit);
  }

  void warn_of_missing_rows() {
    // One text makes one row: what helps is said already.
    if (rows_.ids.size() >= set_.count || has_unused_text_ || set_.count == kWholeSet) return;
    rows_.warnings.push_back(
        fmt::format("asked for {} rows, {} gives {}; add texts, or ask for {} with --calib-size", set_.count,
                    set_.name, rows_.ids.size(), rows_.ids.size()));
  }

  // The run needs far more than the ids for each token, so that it would be refused later.
  void count(uint64_t ids) {
    tokens_ += ids;
    if (tokens_ <= options_.memory_bytes / sizeof(int32_t)) return;
    throw Error(ErrorKind::kRefused, {.file = set_.name}, "the ids of the rows alone do not fit into memory",
                {.hint = "raise --memory, or ask for fewer or shorter rows (--calib-size, --calib-seq)"});
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
  uint64_t tokens_ = 0;
  bool has_unused_text_ = false;
};

void require_packed(const CalibrationSet& set, const RowsOptions& options) {
  if (options.policy == RowsPolicy::kPacked) return;
  throw Error(ErrorKind::kUsage, {}, set.name + " is one text, of which a row a text would be one row",
              {.hint = "give --calib-rows packed"});
}

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

void check_tokens(CalibrationRows& rows, const std::string& calib) {
  const uint64_t tokens = rows.tokens();
  if (tokens < kLeastTokens) {
    throw Error(
        ErrorKind::kBadInput, {.file = calib}, "too little to calibrate on",
        {.expected = fmt::format("at least {} tokens; {} and more are usual", kLeastTokens, 128 * 512),
         .found = std::to_string(tokens),
         .hint = "is this the file that is meant?"});
  }
  if (tokens >= kFewTokens) return;
  rows.warnings.push_back(fmt::format(
      "{} tokens are few to calibrate on: many experts will see none; give at least {}, better {}", tokens,
      kFewTokens, 128 * 512));
}

CalibrationRows read_rows(FileSystem& files, std::span<const CalibrationSet> sets,
                          const TokenizerSource& tokenizer, int64_t bos_token_id, uint64_t vocab_size,
                          const RowsOptions& options) {
  if (options.length == 0) throw Error(ErrorKind::kUsage, {}, "a row needs at least one token");
  Encoder encoder(tokenizer, bos_token_id, vocab_size, options);
  CalibrationRows all;
  std::optional<Error> no_rows;
  for (const CalibrationSet& set : sets) {
    Collector collector(options, set, encoder);
    const RecordOptions record_options{.vocab_size = vocab_size, .column = set.column};
    if (set.joint.empty()) {
      for (const std::string& file : set.files) collector.add_all(*open_records(files, file, record_options));
    } else {
      require_packed(set, options);
      collector.add_all(*join_records(files, set, record_options));
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
