// open_parquet() over Arrow C++.
#include <arrow/api.h>
#include <arrow/io/interfaces.h>
#include <fmt/format.h>
#include <parquet/arrow/reader.h>
#include <parquet/file_reader.h>
#include <parquet/properties.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "calibration/parquet.h"
#include "calibration/utf8.h"

namespace nibblecast {
namespace {

constexpr int64_t kBatchRows = 64;
constexpr int64_t kStreamBytes = 1 << 20;
// A page is some MB; what asks for more than this is damaged.
constexpr int64_t kMostMemory = int64_t{1} << 30;
constexpr int kDeepest = 16;  // lists and structs within each other

// Our File as Arrow's. Arrow knows no exceptions, so an Error waits in `failure` while Arrow returns.
class ArrowFile : public arrow::io::RandomAccessFile {
 public:
  explicit ArrowFile(std::unique_ptr<File> file) : file_(std::move(file)), size_(file_->size()) {}

  arrow::Result<int64_t> ReadAt(int64_t position, int64_t bytes, void* to) override {
    if (position < 0 || bytes < 0) return arrow::Status::IOError("negative range");
    const auto begin = static_cast<uint64_t>(position);
    const uint64_t count = begin >= size_ ? 0 : std::min(static_cast<uint64_t>(bytes), size_ - begin);
    try {
      file_->read(begin, {static_cast<std::byte*>(to), static_cast<size_t>(count)});
    } catch (const Error&) {
      failure = std::current_exception();
      return arrow::Status::IOError("read failed");
    }
    return static_cast<int64_t>(count);
  }
  arrow::Result<std::shared_ptr<arrow::Buffer>> ReadAt(int64_t position, int64_t bytes) override {
    const int64_t left = std::max<int64_t>(static_cast<int64_t>(size_) - std::max<int64_t>(position, 0), 0);
    ARROW_ASSIGN_OR_RAISE(auto buffer, arrow::AllocateResizableBuffer(std::clamp<int64_t>(bytes, 0, left)));
    ARROW_ASSIGN_OR_RAISE(const int64_t done, ReadAt(position, buffer->size(), buffer->mutable_data()));
    ARROW_RETURN_NOT_OK(buffer->Resize(done));
    return std::shared_ptr<arrow::Buffer>(std::move(buffer));
  }
  arrow::Result<int64_t> Read(int64_t bytes, void* to) override {
    ARROW_ASSIGN_OR_RAISE(const int64_t done, ReadAt(position_, bytes, to));
    position_ += done;
    return done;
  }
  arrow::Result<std::shared_ptr<arrow::Buffer>> Read(int64_t bytes) override {
    ARROW_ASSIGN_OR_RAISE(auto buffer, ReadAt(position_, bytes));
    position_ += buffer->size();
    return buffer;
  }
  arrow::Status Seek(int64_t position) override {
    position_ = position;
    return arrow::Status::OK();
  }
  arrow::Result<int64_t> Tell() const override { return position_; }
  arrow::Result<int64_t> GetSize() override { return static_cast<int64_t>(size_); }
  arrow::Status Close() override {
    is_closed_ = true;
    return arrow::Status::OK();
  }
  bool closed() const override { return is_closed_; }

  std::exception_ptr failure;

 private:
  std::unique_ptr<File> file_;
  uint64_t size_;
  int64_t position_ = 0;
  bool is_closed_ = false;
};

// An element of a column as JSON, which read_record() takes.
Json value_at(const arrow::Array& array, int64_t row, const RecordPlace& place, int depth = 0);

template <class Strings>
Json text_at(const arrow::Array& array, int64_t row, const RecordPlace& place) {
  const std::string_view text = static_cast<const Strings&>(array).GetView(row);
  if (find_invalid_utf8(text)) fail_record(place, "text is not UTF-8");
  return std::string(text);
}

template <class Lists>
Json list_at(const arrow::Array& array, int64_t row, const RecordPlace& place, int depth) {
  const auto& lists = static_cast<const Lists&>(array);
  Json values = Json::array();
  for (int64_t i = 0; i < static_cast<int64_t>(lists.value_length(row)); ++i) {
    values.push_back(value_at(*lists.values(), lists.value_offset(row) + i, place, depth + 1));
  }
  return values;
}

Json struct_at(const arrow::Array& array, int64_t row, const RecordPlace& place, int depth) {
  const auto& fields = static_cast<const arrow::StructArray&>(array);
  Json object = Json::object();
  for (int i = 0; i < fields.num_fields(); ++i) {
    object[fields.type()->field(i)->name()] = value_at(*fields.field(i), row, place, depth + 1);
  }
  return object;
}

template <class Integers>
Json integer_at(const arrow::Array& array, int64_t row) {
  const auto value = static_cast<const Integers&>(array).Value(row);
  // Ids are looked for among JSON's unsigned integers.
  return value < 0 ? Json(static_cast<int64_t>(value)) : Json(static_cast<uint64_t>(value));
}

Json value_at(const arrow::Array& array, int64_t row, const RecordPlace& place, int depth) {
  if (depth > kDeepest) fail_record(place, "lists and structs stand too deep within each other");
  if (array.IsNull(row)) return nullptr;
  switch (array.type_id()) {
    case arrow::Type::STRING:
      return text_at<arrow::StringArray>(array, row, place);
    case arrow::Type::LARGE_STRING:
      return text_at<arrow::LargeStringArray>(array, row, place);
    case arrow::Type::INT32:
      return integer_at<arrow::Int32Array>(array, row);
    case arrow::Type::INT64:
      return integer_at<arrow::Int64Array>(array, row);
    case arrow::Type::UINT32:
      return integer_at<arrow::UInt32Array>(array, row);
    case arrow::Type::UINT16:
      return integer_at<arrow::UInt16Array>(array, row);
    case arrow::Type::LIST:
      return list_at<arrow::ListArray>(array, row, place, depth);
    case arrow::Type::LARGE_LIST:
      return list_at<arrow::LargeListArray>(array, row, place, depth);
    case arrow::Type::FIXED_SIZE_LIST:
      return list_at<arrow::FixedSizeListArray>(array, row, place, depth);
    case arrow::Type::STRUCT:
      return struct_at(array, row, place, depth);
    default:
      fail_record(place, "a column of a type that holds no text",
                  {.expected = "strings, integers, and lists or structs of them"});
  }
}

class ParquetRecords : public RecordStream {
 public:
  ParquetRecords(FileSystem& files, const std::string& path, RecordOptions options)
      : path_(path), options_(std::move(options)), pool_(arrow::default_memory_pool(), kMostMemory) {
    auto file = files.open(path, Access::kRead);
    check_frame(*file);
    file_ = std::make_shared<ArrowFile>(std::move(file));
    guarded([&] { open(); });
  }

  std::optional<Record> next() override {
    while (!batch_ || next_ == batch_->num_rows()) {
      next_ = 0;
      guarded([&] {
        check(batches_->ReadNext(&batch_));
        if (batch_) check(batch_->Validate());
      });
      if (!batch_) return std::nullopt;
    }
    RecordPlace place{.origin = fmt::format("{}: row {}", path_, ++row_), .offset = std::nullopt};
    Json json = Json::object();
    for (int i = 0; i < batch_->num_columns(); ++i) {
      json[batch_->column_name(i)] = value_at(*batch_->column(i), next_, place);
    }
    ++next_;
    return read_record(json, std::move(place), options_.vocab_size, options_.column);
  }

 private:
  [[noreturn]] void fail(const std::string& problem, Detail detail = {}) const {
    throw Error(ErrorKind::kBadInput, {.file = path_}, problem, std::move(detail));
  }

  // Magic at both ends: what a download cut short lacks.
  void check_frame(File& file) const {
    const auto magic_at = [&](uint64_t offset) {
      std::string magic(4, '\0');
      file.read(offset, std::as_writable_bytes(std::span(magic)));
      return magic;
    };
    constexpr uint64_t kLeastBytes = 12;  // two magics and the footer's length
    const uint64_t size = file.size();
    if (size < kLeastBytes || magic_at(0) != "PAR1") {
      fail("is no Parquet file", {.expected = "'PAR1' at its beginning and end"});
    }
    if (magic_at(size - 4) != "PAR1") {
      fail("ends without Parquet's footer",
           {.found = fmt::format("{} bytes", size), .hint = "cut short? Download it again"});
    }
  }

  void check(const arrow::Status& status) const {
    if (status.ok()) return;
    if (file_->failure) std::rethrow_exception(file_->failure);
    if (status.IsNotImplemented()) {
      throw Error(ErrorKind::kUnsupported, {.file = path_}, "uses a part of Parquet that is not read here",
                  {.hint = "write it anew, say with pyarrow, or give JSONL"});
    }
    fail(batches_ ? fmt::format("is damaged behind row {}", row_) : "is damaged: its footer makes no sense",
         {.hint = "download it again"});
  }

  // Runs what calls Arrow: its exceptions mean a damaged file.
  template <class F>
  void guarded(const F& f) const {
    try {
      f();
    } catch (const Error&) {
      throw;
    } catch (const std::exception&) {
      check(arrow::Status::Invalid("exception"));
    }
  }

  void open() {
    parquet::ReaderProperties properties(&pool_);
    properties.enable_buffered_stream();
    properties.set_buffer_size(kStreamBytes);
    parquet::ArrowReaderProperties arrow_properties(false);
    arrow_properties.set_pre_buffer(false);
    arrow_properties.set_batch_size(kBatchRows);
    parquet::arrow::FileReaderBuilder builder;
    check(builder.Open(file_, properties));
    auto reader = builder.memory_pool(&pool_)->properties(arrow_properties)->Build();
    check(reader.status());
    reader_ = std::move(*reader);
    std::vector<int> groups(static_cast<size_t>(reader_->num_row_groups()));
    for (size_t i = 0; i < groups.size(); ++i) groups[i] = static_cast<int>(i);
    auto batches = reader_->GetRecordBatchReader(groups, columns());
    check(batches.status());
    batches_ = std::move(*batches);
  }

  // Leaves of the columns that records have; of messages, which hold all sorts of things, the texts.
  std::vector<int> columns() const {
    const parquet::SchemaDescriptor& schema = *reader_->parquet_reader()->metadata()->schema();
    std::vector<int> wanted;
    std::string present;
    for (int i = 0; i < schema.num_columns(); ++i) {
      const std::vector<std::string> path = schema.Column(i)->path()->ToDotVector();
      if (is_record_key(path[0], options_.column) && is_used(path)) wanted.push_back(i);
      if (present.size() < kMostListed) present += (present.empty() ? "" : ", ") + path[0];
    }
    if (wanted.empty()) {
      fail("has none of the columns that hold calibration texts",
           {.expected = known_keys(options_.column), .found = present, .hint = kKeyHint});
    }
    return wanted;
  }

  // Whether a leaf is the column itself, a list in it, or what texts are made of in a list of messages.
  static bool is_used(const std::vector<std::string>& path) {
    constexpr std::string_view kLists[] = {"list", "element", "item", "array"};
    bool is_plain = true;
    for (size_t i = 1; i < path.size(); ++i) {
      if (is_message_key(path[i])) return true;
      is_plain = is_plain && std::find(std::begin(kLists), std::end(kLists), path[i]) != std::end(kLists);
    }
    return is_plain;
  }

  static constexpr size_t kMostListed = 200;  // bytes of names in a message

  std::string path_;
  RecordOptions options_;
  arrow::CappedMemoryPool pool_;
  std::shared_ptr<ArrowFile> file_;
  std::unique_ptr<parquet::arrow::FileReader> reader_;
  std::unique_ptr<arrow::RecordBatchReader> batches_;
  std::shared_ptr<arrow::RecordBatch> batch_;
  int64_t next_ = 0;  // in the batch
  uint64_t row_ = 0;  // rows handed out, from 1 in messages
};

}  // namespace

std::unique_ptr<RecordStream> open_parquet(FileSystem& files, const std::string& path,
                                           RecordOptions options) {
  return std::make_unique<ParquetRecords>(files, path, std::move(options));
}

}  // namespace nibblecast
