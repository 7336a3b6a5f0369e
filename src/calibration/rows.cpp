#include "calibration/rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "calibration/text_lines.h"

namespace nibblecast {
namespace {

using Ids = std::vector<int32_t>;

[[noreturn]] void fail(const TextLine& line, const std::string& problem, Detail detail = {}) {
  throw Error(ErrorKind::kBadInput, {.file = line.origin, .offset = line.offset}, problem, std::move(detail));
}

// One record of the file: a text, or token ids.
struct Record {
  std::string text;
  std::optional<Ids> ids;
};

// A string, or a list of parts that each have a "text". null (an assistant that only calls tools) has none.
std::optional<std::string> message_content(const TextLine& line, const Json& message) {
  if (!message.is_object() || !message.contains("content")) {
    fail(line, "a message is not an object with 'content'");
  }
  const Json& content = message["content"];
  if (content.is_null()) return std::nullopt;
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) fail(line, "'content' is neither a string nor a list of parts");
  std::string text;
  for (const Json& part : content) {
    const bool has_text = part.is_object() && part.contains("text") && part["text"].is_string();
    if (!has_text) fail(line, "a part of 'content' has no 'text'", {.hint = "only text can be used here"});
    text += part["text"].get_ref<const std::string&>();
  }
  return text;
}

std::string join_messages(const TextLine& line, const Json& messages) {
  if (!messages.is_array()) fail(line, "'messages' is not a list");
  std::string text;
  bool is_first = true;
  for (const Json& message : messages) {
    const auto content = message_content(line, message);
    if (!content) continue;
    if (!std::exchange(is_first, false)) text += '\n';
    text += *content;
  }
  return text;
}

Ids read_ids(const TextLine& line, const Json& values, uint64_t vocab_size) {
  if (!values.is_array()) fail(line, "'input_ids' is not a list");
  Ids ids;
  ids.reserve(values.size());
  for (const Json& value : values) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= vocab_size) {
      fail(line, fmt::format("input_ids[{}] is no token id", ids.size()),
           {.expected = fmt::format("an integer below {} (vocab_size)", vocab_size),
            .found = value.dump(-1, ' ', true).substr(0, 80)});
    }
    ids.push_back(value.get<int32_t>());
  }
  return ids;
}

// A key counts as absent where its value is null, as exports of tables have it.
Record read_record(const TextLine& line, uint64_t vocab_size) {
  const Json json = parse_json(line.text, line.origin, line.offset);
  if (!json.is_object()) fail(line, "not a JSON object");
  for (const char* key : {"text", "prompt", "messages", "article", "input_ids"}) {
    const auto entry = json.find(key);
    if (entry == json.end() || entry->is_null()) continue;
    if (key == std::string_view("messages")) return {.text = join_messages(line, *entry), .ids = {}};
    if (key == std::string_view("input_ids")) return {.text = {}, .ids = read_ids(line, *entry, vocab_size)};
    if (!entry->is_string()) fail(line, fmt::format("'{}' is not a string", key));
    return {.text = entry->get<std::string>(), .ids = {}};
  }
  fail(line, "none of the keys text, prompt, messages, article, input_ids");
}

// Text to ids by the policy for the BOS.
class Encoder {
 public:
  Encoder(const Tokenizer* tokenizer, int64_t bos, uint64_t vocab_size, BosPolicy policy)
      : tokenizer_(tokenizer), bos_(bos), vocab_size_(vocab_size), policy_(policy) {}

  // All ids from the first to the `count`th.
  Ids encode_head(const TextLine& line, const std::string& text, uint64_t count) const {
    // With so much room more, truncation leaves what stands in front as it is.
    const uint64_t around = tokenizer_ == nullptr ? 0 : tokenizer_->encode("").size();
    Ids ids = encode(line, text, count > SIZE_MAX - around ? SIZE_MAX : count + around);
    if (ids.size() > count) ids.resize(count);
    return ids;
  }

  // Truncated to `max_ids` counting special tokens, which stay.
  Ids encode(const TextLine& line, const std::string& text, uint64_t max_ids) const {
    if (tokenizer_ == nullptr) {
      fail(line, "a text, but there is no tokenizer",
           {.hint = "put tokenizer.json into the checkpoint's folder, or give input_ids"});
    }
    Ids ids = tokenizer_->encode(text, policy_ != BosPolicy::kNever, max_ids);
    add_bos(line, ids);
    if (ids.size() > max_ids) ids.resize(max_ids);
    const auto outside = std::find_if(ids.begin(), ids.end(),
                                      [&](int32_t id) { return std::cmp_greater_equal(id, vocab_size_); });
    if (outside != ids.end()) {
      fail(line, fmt::format("the tokenizer gives id {}, the model has vocab_size {}", *outside, vocab_size_),
           {.hint = "is tokenizer.json the model's own?"});
    }
    return ids;
  }

 private:
  void add_bos(const TextLine& line, Ids& ids) const {
    if (policy_ == BosPolicy::kNever || (!ids.empty() && ids.front() == bos_)) return;
    if (bos_ >= 0 && std::cmp_less(bos_, vocab_size_)) {
      ids.insert(ids.begin(), static_cast<int32_t>(bos_));
    } else if (policy_ == BosPolicy::kAlways || bos_ >= 0) {
      fail(line, "there is no BOS to put before the text",
           {.expected = fmt::format("a bos_token_id below {} (vocab_size)", vocab_size_),
            .found = std::to_string(bos_),
            .hint = "see bos_token_id in config.json"});
    }
  }

  const Tokenizer* tokenizer_;
  int64_t bos_;
  uint64_t vocab_size_;
  BosPolicy policy_;
};

// Gathers records into rows until there are enough.
class Collector {
 public:
  Collector(const RowsOptions& options, const Encoder& encoder) : options_(options), encoder_(encoder) {}

  bool is_full() const { return (is_packed() ? rows_.ids.size() : texts_) >= options_.count; }

  void add(const TextLine& line, Record record) {
    ++texts_;
    Ids ids;
    if (record.ids) {
      ids = std::move(*record.ids);
    } else if (!record.text.empty()) {
      ids = is_packed() ? encoder_.encode_head(line, record.text, missing_ids())
                        : encoder_.encode(line, record.text, options_.length);
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

  CalibrationRows finish(const std::string& source) {
    if (empty_ > 0) {
      rows_.warnings.push_back(
          fmt::format("{}: {} of {} texts are empty and were dropped", source, empty_, texts_));
    }
    if (rows_.ids.size() < options_.count && !rows_.ids.empty()) {
      rows_.warnings.push_back(
          fmt::format("asked for {} rows, {} gives {}", options_.count, source, rows_.ids.size()));
    }
    if (!rows_.ids.empty()) return std::move(rows_);
    Detail detail;
    if (is_packed()) {
      detail = {.expected = fmt::format("at least {} tokens for one row", options_.length),
                .found = std::to_string(open_.size())};
    } else {
      detail.found = fmt::format("{} texts, none with any token", texts_);
    }
    throw Error(ErrorKind::kBadInput, {.file = source}, "no calibration rows", std::move(detail));
  }

 private:
  bool is_packed() const { return options_.policy == RowsPolicy::kPacked; }

  // How many ids the rows asked for still lack; saturates.
  uint64_t missing_ids() const {
    const uint64_t rows = options_.count - rows_.ids.size();
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
  const Encoder& encoder_;
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

CalibrationRows read_rows(FileSystem& files, const std::string& source, const Tokenizer* tokenizer,
                          int64_t bos_token_id, uint64_t vocab_size, const RowsOptions& options) {
  if (options.count == 0 || options.length == 0) {
    throw Error(ErrorKind::kUsage, {}, "calibration needs at least one row of one token");
  }
  const std::string name = source == "-" ? "standard input" : source;
  TextLines lines(open_source(files, source), name);
  const Encoder encoder(tokenizer, bos_token_id, vocab_size, options.bos);
  Collector collector(options, encoder);
  if (lines.is_jsonl()) {
    while (!collector.is_full()) {
      const auto line = lines.next_line();
      if (!line) break;
      collector.add(*line, read_record(*line, vocab_size));
    }
  } else {
    const TextLine all = lines.rest();
    collector.add(all, {.text = all.text, .ids = {}});
  }
  return collector.finish(name);
}

}  // namespace nibblecast
