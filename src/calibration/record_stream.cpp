#include "calibration/record_stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <utility>

#include "calibration/csv_reader.h"
#include "calibration/json_reader.h"
#include "calibration/parquet.h"

namespace nibblecast {
namespace {

constexpr const char* kStandardInput = "standard input";

size_t read_standard_input(std::span<std::byte> to) {
  std::cin.read(reinterpret_cast<char*>(to.data()), static_cast<std::streamsize>(to.size()));
  if (std::cin.bad()) throw Error(ErrorKind::kIo, {.file = kStandardInput}, "cannot read");
  return static_cast<size_t>(std::cin.gcount());
}

// What all streams over a text have.
class TextRecords : public RecordStream {
 protected:
  TextRecords(std::unique_ptr<TextReader> text, RecordOptions options)
      : text_(std::move(text)), options_(std::move(options)) {}

  RecordPlace place(const std::string& number) const {
    return {.origin = fmt::format("{}: {}", text_->name(), number), .offset = text_->offset()};
  }

  std::unique_ptr<TextReader> text_;
  RecordOptions options_;
};

class JsonRecords : public TextRecords {
 public:
  JsonRecords(std::unique_ptr<TextReader> text, RecordOptions options)
      : TextRecords(std::move(text), std::move(options)),
        json_(*text_, [this](std::string_view key, size_t depth) {
          return depth == 1 ? is_record_key(key, options_.column) : is_message_key(key);
        }) {}

 protected:
  Record read(RecordPlace place) {
    const Json json = json_.read();
    return read_record(json, std::move(place), options_.vocab_size, options_.column);
  }

 private:
  JsonReader json_;
};

class JsonSequence : public JsonRecords {
 public:
  using JsonRecords::JsonRecords;

  std::optional<Record> next() override {
    if (!text_->peek_past_blank()) return std::nullopt;
    return read(place(fmt::format("line {}", text_->line())));
  }
};

class JsonArray : public JsonRecords {
 public:
  JsonArray(std::unique_ptr<TextReader> text, RecordOptions options)
      : JsonRecords(std::move(text), std::move(options)) {
    text_->skip(1);  // [
  }

  std::optional<Record> next() override {
    if (is_at_end_ || is_end()) return std::nullopt;
    return read(place(fmt::format("element {}", ++count_)));
  }

 private:
  bool is_end() {
    auto c = text_->peek_past_blank();
    if (count_ > 0 && c == ',') {
      text_->skip(1);
      c = text_->peek_past_blank();
      if (c == ']') fail();
    } else if (count_ > 0 && c != ']') {
      fail();
    }
    if (!c) fail();
    if (c != ']') return false;
    text_->skip(1);
    if (text_->peek_past_blank()) fail();
    is_at_end_ = true;
    return true;
  }

  [[noreturn]] void fail() const {
    text_->fail("not a JSON array, though it begins like one",
                {.expected = is_at_end_ ? "nothing" : "elements with commas between them, and ] at the end",
                 .hint = "is the file complete? Plain text must not begin like JSON"});
  }

  uint64_t count_ = 0;
  bool is_at_end_ = false;
};

class TableRecords : public TextRecords {
 public:
  TableRecords(std::unique_ptr<TextReader> text, char separator, RecordOptions options)
      : TextRecords(std::move(text), std::move(options)), rows_(*text_, separator), header_(*rows_.next()) {
    std::vector<bool> wanted;
    bool is_any = false;
    for (const std::string& column : header_) {
      wanted.push_back(is_record_key(column, options_.column));
      is_any = is_any || wanted.back();
    }
    if (!is_any) {
      throw Error(ErrorKind::kBadInput, {.file = text_->name()},
                  "a table without a column that holds calibration texts",
                  {.expected = known_keys(options_.column), .found = list_names(header_), .hint = kKeyHint});
    }
    rows_.hold_only(wanted);
    wanted_ = std::move(wanted);
  }

  std::optional<Record> next() override {
    auto row = rows_.next();
    if (!row) return std::nullopt;
    RecordPlace row_place{.origin = fmt::format("{}: line {}", text_->name(), rows_.row_line()),
                          .offset = rows_.row_offset()};
    if (row->size() != header_.size()) {
      fail_record(row_place, "the row has another number of fields than the header",
                  {.expected = std::to_string(header_.size()), .found = std::to_string(row->size())});
    }
    Json object = Json::object();
    for (size_t i = 0; i < header_.size(); ++i) {
      if (wanted_[i]) object[header_[i]] = std::move((*row)[i]);
    }
    return read_record(object, std::move(row_place), options_.vocab_size, options_.column);
  }

 private:
  CsvReader rows_;
  std::vector<std::string> header_;
  std::vector<bool> wanted_;
};

class PlainText : public TextRecords {
 public:
  PlainText(std::unique_ptr<TextReader> text, std::optional<uint64_t> file_bytes)
      : TextRecords(std::move(text), {}), file_bytes_(file_bytes) {}

  std::optional<Record> next() override {
    if (!text_->peek() || std::exchange(is_read_, true)) return std::nullopt;
    Record record{.place = {.origin = text_->name(), .offset = text_->offset()}, .text = {}};
    record.is_whole_file = true;
    record.file_bytes = file_bytes_;
    record.more = [this](std::string& to) {
      if (!text_->peek()) return false;
      to += text_->window();
      text_->skip(text_->window().size());
      return true;
    };
    return record;
  }

 private:
  std::optional<uint64_t> file_bytes_;
  bool is_read_ = false;
};

// Whether the first line is a JSON string and nothing else; one that is longer than `head` counts.
bool begins_with_json_string(std::string_view head) {
  size_t end = head.find('"') + 1;
  while (end < head.size() && head[end] != '"' && head[end] != '\n') end += head[end] == '\\' ? 2 : 1;
  if (end >= head.size()) return true;
  if (head[end] == '\n') return false;
  const size_t behind = head.find_first_not_of(" \t\r", end + 1);
  return behind == std::string_view::npos || head[behind] == '\n';
}

}  // namespace

std::unique_ptr<RecordStream> open_records(FileSystem& files, const std::string& source,
                                           RecordOptions options) {
  if (source == "-")
    return read_records(read_standard_input, std::nullopt, kStandardInput, std::move(options));
  if (is_parquet(files, source)) return open_parquet(files, source, std::move(options));
  std::shared_ptr<File> file = files.open(source, Access::kRead);
  const auto read = [file, offset = uint64_t{0}](std::span<std::byte> to) mutable {
    const size_t done = file->read_some(offset, to);
    offset += done;
    return done;
  };
  return read_records(read, file->size(), source, std::move(options));
}

std::unique_ptr<RecordStream> read_records(ByteSource source, std::optional<uint64_t> source_bytes,
                                           std::string name, RecordOptions options) {
  auto text = std::make_unique<TextReader>(std::move(source), std::move(name));
  // Where nothing but white space is in sight, that is dropped.
  if (text->window().find_first_not_of(kBlank) == std::string_view::npos && !text->peek_past_blank() &&
      text->offset() > 0) {
    throw Error(ErrorKind::kBadInput, {.file = text->name()}, "holds nothing but white space");
  }
  const std::string_view head = text->window();
  const size_t first = std::min(head.find_first_not_of(kBlank), head.size());
  const char begin = first == head.size() ? '\0' : head[first];
  if (begin == '{' || begin == '[') {
    text->skip(first);
    if (begin == '[') return std::make_unique<JsonArray>(std::move(text), std::move(options));
    return std::make_unique<JsonSequence>(std::move(text), std::move(options));
  }
  const auto separator =
      find_separator(head, [&](std::string_view column) { return is_record_key(column, options.column); });
  if (separator) return std::make_unique<TableRecords>(std::move(text), *separator, std::move(options));
  if (begin == '"' && begins_with_json_string(head)) {
    return std::make_unique<JsonSequence>(std::move(text), std::move(options));
  }
  return std::make_unique<PlainText>(std::move(text), source_bytes);
}

}  // namespace nibblecast
