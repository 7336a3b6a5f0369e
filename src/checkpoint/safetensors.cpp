#include "checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/json_events.h"
#include "checkpoint/printable.h"

namespace nibblecast {
namespace {

static_assert(std::endian::native == std::endian::little, "the header length is read as it stands");

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // tensor.rs MAX_HEADER_SIZE
constexpr uint64_t kMaxFileBytes = std::numeric_limits<int64_t>::max();
// The format has no limit; numpy's is 64. Ours keeps a hostile shape small in memory and in messages.
constexpr size_t kMaxDimensions = 64;
constexpr std::string_view kMetadataKey = "__metadata__";
constexpr std::string_view kTruncatedHint = "truncated download?";

// In newer versions of the format, and in no checkpoint that we read.
constexpr std::array<std::string_view, 5> kUnsupportedDtypes = {"F6_E2M3", "F6_E3M2", "C64", "F8_E4M3FNUZ",
                                                                "F8_E5M2FNUZ"};

// Takes the header's JSON event by event, so that memory follows the tensors and not what a hostile
// header nests. Each event is legal in one place only; everything else is refused on the spot.
class HeaderReader : public JsonEvents {
 public:
  HeaderReader(const std::string& file, SafetensorsHeader& header)
      : JsonEvents(file, header.json, kLengthBytes), header_(&header) {}

  void read() { run(*this); }

  bool null() { unexpected("null"); }
  bool boolean(bool) { unexpected("a boolean"); }
  bool number_integer(Json::number_integer_t) { unexpected("a negative number"); }
  bool number_float(Json::number_float_t, const std::string& text) {
    unexpected(text.size() > 40 ? "a number of " + std::to_string(text.size()) + " characters" : text);
  }
  bool binary(Json::binary_t&) { unexpected("binary data"); }

  bool number_unsigned(Json::number_unsigned_t number) {
    if (place_ == Place::kShapeItem) {
      if (tensor().shape.size() == kMaxDimensions) refuse("more than 64 dimensions");
      tensor().shape.push_back(number);
    } else if (place_ == Place::kOffsetItem && offset_count_ < offsets_.size()) {
      offsets_[offset_count_++] = number;
    } else {
      unexpected("a number");
    }
    return true;
  }

  bool string(std::string& text) {
    if (place_ == Place::kDtype) {
      tensor().dtype = checked_dtype(text);
      place_ = Place::kTensor;
    } else if (place_ == Place::kMetadataText) {
      header_->metadata[metadata_key_] = std::move(text);
      place_ = Place::kMetadata;
    } else {
      unexpected("a string");
    }
    return true;
  }

  bool start_object(std::size_t) {
    if (place_ == Place::kDocument) {
      place_ = Place::kTop;
    } else if (place_ == Place::kTensorObject) {
      place_ = Place::kTensor;
    } else if (place_ == Place::kMetadataObject) {
      place_ = Place::kMetadata;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool key(std::string& key) {
    if (place_ == Place::kTop && key == kMetadataKey) {
      if (std::exchange(has_metadata_, true)) refuse("key '__metadata__' appears twice");
      place_ = Place::kMetadataObject;
    } else if (place_ == Place::kTop) {
      set_tensor(key);
      header_->tensors.push_back({.name = std::move(key)});
      fields_ = 0;
      offset_count_ = 0;
      place_ = Place::kTensorObject;
    } else if (place_ == Place::kTensor) {
      place_ = field_place(key);
    } else {
      if (header_->metadata.contains(key))
        refuse("key '" + printable(key) + "' appears twice in __metadata__");
      metadata_key_ = std::move(key);
      place_ = Place::kMetadataText;
    }
    return true;
  }

  bool end_object() {
    if (place_ == Place::kTensor) {
      finish_tensor();
      clear_tensor();
    }
    place_ = Place::kTop;
    return true;
  }

  bool start_array(std::size_t) {
    if (place_ == Place::kShapeArray) {
      place_ = Place::kShapeItem;
    } else if (place_ == Place::kOffsetsArray) {
      place_ = Place::kOffsetItem;
    } else {
      unexpected("an array");
    }
    return true;
  }

  bool end_array() {
    if (place_ == Place::kOffsetItem && offset_count_ < offsets_.size()) unexpected("the end of the array");
    place_ = Place::kTensor;
    return true;
  }

 private:
  // What may come next.
  enum class Place {
    kDocument,
    kTop,
    kTensorObject,
    kTensor,
    kDtype,
    kShapeArray,
    kShapeItem,
    kOffsetsArray,
    kOffsetItem,
    kMetadataObject,
    kMetadata,
    kMetadataText,
  };

  static const char* expected_at(Place place) {
    switch (place) {
      case Place::kDocument:
        return "an object of tensors";
      case Place::kTensorObject:
        return "an object with dtype, shape and data_offsets";
      case Place::kDtype:
        return "dtype to be a string";
      case Place::kShapeArray:
        return "shape to be an array";
      case Place::kShapeItem:
        return "a dimension: a whole number from 0 to 2^64 - 1";
      case Place::kOffsetsArray:
        return "data_offsets to be an array";
      case Place::kOffsetItem:
        return "data_offsets to be two whole numbers from 0 to 2^64 - 1";
      case Place::kMetadataObject:
        return "__metadata__ to be an object";
      case Place::kMetadataText:
        return "__metadata__ to hold strings only";
      case Place::kTop:
      case Place::kTensor:
      case Place::kMetadata:
        break;
    }
    return "a key";
  }

  enum Field : unsigned { kDtypeField = 1, kShapeField = 2, kOffsetsField = 4, kAllFields = 7 };

  Place field_place(const std::string& key) {
    const auto take = [&](Field field, Place place) {
      if ((fields_ & field) != 0) refuse("key '" + key + "' appears twice");
      fields_ |= field;
      return place;
    };
    if (key == "dtype") return take(kDtypeField, Place::kDtype);
    if (key == "shape") return take(kShapeField, Place::kShapeArray);
    if (key == "data_offsets") return take(kOffsetsField, Place::kOffsetsArray);
    refuse("unknown key", {.expected = "dtype, shape or data_offsets", .found = "'" + printable(key) + "'"});
  }

  Dtype checked_dtype(const std::string& name) {
    if (const auto dtype = parse_dtype(name)) return *dtype;
    const bool known = std::ranges::find(kUnsupportedDtypes, name) != kUnsupportedDtypes.end();
    throw Error(known ? ErrorKind::kUnsupported : ErrorKind::kBadInput, here(),
                (known ? "dtype is not supported: '" : "unknown dtype: '") + printable(name) + "'");
  }

  // Sizes that contradict each other are found here; where tensors lie among each other, later.
  void finish_tensor() {
    if (fields_ != kAllFields) {
      const char* missing = (fields_ & kDtypeField) == 0   ? "dtype"
                            : (fields_ & kShapeField) == 0 ? "shape"
                                                           : "data_offsets";
      refuse(std::string("key '") + missing + "' is missing");
    }
    const auto [begin, end] = offsets_;
    const std::string found = "[" + std::to_string(begin) + ", " + std::to_string(end) + "]";
    if (begin > end) refuse("data_offsets run backwards", {.found = found});
    if (end > kMaxFileBytes - header_->data_offset)
      refuse("data_offsets lie beyond any file", {.found = found});
    const auto count = element_count(tensor().shape);
    const auto bytes = count ? stored_bytes(tensor().dtype, *count) : std::nullopt;
    if (count && !bytes && tensor().dtype == Dtype::kF4)
      refuse("an odd number of half bytes", {.found = "F4 " + shape_text(tensor().shape)});
    if (!bytes) refuse("shape is larger than any file", {.found = shape_text(tensor().shape)});
    if (*bytes != end - begin) {
      refuse("data_offsets do not fit dtype and shape",
             {.expected = std::to_string(*bytes) + " bytes for " + std::string(dtype_name(tensor().dtype)) +
                          " " + shape_text(tensor().shape),
              .found = std::to_string(end - begin)});
    }
    tensor().offset = header_->data_offset + begin;
    tensor().size_bytes = end - begin;
  }

  Tensor& tensor() { return header_->tensors.back(); }
  [[noreturn]] void unexpected(std::string found) {
    refuse("the header is not what the format says",
           {.expected = expected_at(place_), .found = std::move(found)});
  }

  SafetensorsHeader* header_;
  Place place_ = Place::kDocument;
  unsigned fields_ = 0;
  std::array<uint64_t, 2> offsets_ = {};
  size_t offset_count_ = 0;
  bool has_metadata_ = false;
  std::string metadata_key_;
};

std::string bytes_text(uint64_t count) { return std::to_string(count) + (count == 1 ? " byte" : " bytes"); }

uint64_t read_header_length(File& file, uint64_t file_bytes) {
  const auto refuse = [&](uint64_t offset, const std::string& problem, Detail detail) {
    throw Error(ErrorKind::kBadInput, {.file = file.path(), .offset = offset}, problem, std::move(detail));
  };
  if (file_bytes == 0) refuse(0, "the file is empty", {.hint = std::string(kTruncatedHint)});
  if (file_bytes < kLengthBytes) {
    refuse(file_bytes, "the file ends within the header's length",
           {.expected = "at least 8 bytes",
            .found = std::to_string(file_bytes),
            .hint = std::string(kTruncatedHint)});
  }
  std::string start(std::min<uint64_t>(file_bytes, 64), '\0');
  file.read(0, std::as_writable_bytes(std::span(start)));
  refuse_git_lfs_pointer(start, file.path());
  uint64_t length;
  std::memcpy(&length, start.data(), sizeof length);
  if (length > kMaxHeaderBytes) {
    refuse(0, "the header cannot be as long as the file says",
           {.expected = "at most 100000000",
            .found = std::to_string(length),
            .hint = "is it a safetensors file?"});
  }
  if (length > file_bytes - kLengthBytes) {
    refuse(file_bytes,
           "the file ends " + bytes_text(kLengthBytes + length - file_bytes) + " before its header does",
           {.expected = "at least " + std::to_string(kLengthBytes + length),
            .found = std::to_string(file_bytes),
            .hint = std::string(kTruncatedHint)});
  }
  return length;
}

void refuse_duplicates(const std::vector<Tensor>& tensors, const std::string& file) {
  std::unordered_set<std::string_view> names;
  names.reserve(tensors.size());
  for (const Tensor& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      throw Error(ErrorKind::kBadInput,
                  {.file = file, .tensor = printable(tensor.name), .offset = tensor.offset},
                  "the header names it twice");
    }
  }
}

// Tensors in file order must cover the data from its begin to the end of the file.
void check_layout(const SafetensorsHeader& header, const std::string& file, uint64_t file_bytes) {
  uint64_t next = header.data_offset;
  const Tensor* cut = nullptr;  // the first one that the file does not hold whole
  for (const Tensor& tensor : header.tensors) {
    if (tensor.offset != next) {
      throw Error(ErrorKind::kBadInput,
                  {.file = file, .tensor = printable(tensor.name), .offset = tensor.offset},
                  tensor.offset < next ? "overlaps the tensor before it" : "a gap lies in front of it",
                  {.expected = "data_offsets from " + std::to_string(next - header.data_offset),
                   .found = std::to_string(tensor.offset - header.data_offset)});
    }
    next = tensor.end();
    if (cut == nullptr && next > file_bytes) cut = &tensor;
  }
  if (cut != nullptr) {
    throw Error(ErrorKind::kBadInput, {.file = file, .tensor = printable(cut->name), .offset = file_bytes},
                "the file ends " + bytes_text(next - file_bytes) + " before its data does",
                {.expected = bytes_text(next),
                 .found = std::to_string(file_bytes),
                 .hint = std::string(kTruncatedHint)});
  }
  if (next < file_bytes) {
    throw Error(ErrorKind::kBadInput, {.file = file, .offset = next},
                bytes_text(file_bytes - next) + " after the last tensor",
                {.expected = bytes_text(next), .found = std::to_string(file_bytes)});
  }
}

std::string quoted(const std::string& text) {
  try {
    return Json(text).dump();
  } catch (const Json::exception&) {
    throw Error(ErrorKind::kBadInput, {}, "a safetensors header cannot hold text that is not UTF-8",
                {.found = "'" + printable(text) + "'"});
  }
}

}  // namespace

SafetensorsHeader read_safetensors_header(File& file) {
  const uint64_t file_bytes = file.size();
  const uint64_t length = read_header_length(file, file_bytes);
  std::string json(length, '\0');
  file.read(kLengthBytes, std::as_writable_bytes(std::span(json)));
  return parse_safetensors_header(std::move(json), file_bytes, file.path());
}

SafetensorsHeader parse_safetensors_header(std::string json, uint64_t file_bytes, const std::string& file) {
  SafetensorsHeader header;
  header.data_offset = kLengthBytes + json.size();
  header.json = std::move(json);
  if (!header.json.starts_with('{')) {
    throw Error(ErrorKind::kBadInput, {.file = file, .offset = kLengthBytes},
                "the header does not begin with '{'", {.hint = "is it a safetensors file?"});
  }
  HeaderReader(file, header).read();
  refuse_duplicates(header.tensors, file);
  std::ranges::stable_sort(header.tensors, {}, [](const Tensor& t) { return std::pair(t.offset, t.end()); });
  check_layout(header, file, file_bytes);
  return header;
}

std::string write_safetensors_header(std::span<const Tensor> tensors,
                                     const std::map<std::string, std::string>& metadata) {
  std::string json = "{";
  const auto separate = [&] {
    if (json.size() > 1) json += ",";
  };
  if (!metadata.empty()) {
    json += quoted(std::string(kMetadataKey)) + ":{";
    for (bool first = true; const auto& [key, text] : metadata) {
      json += (std::exchange(first, false) ? "" : ",") + quoted(key) + ":" + quoted(text);
    }
    json += "}";
  }
  for (const Tensor& tensor : tensors) {
    separate();
    json += quoted(tensor.name) + R"(:{"dtype":")" + std::string(dtype_name(tensor.dtype)) + R"(","shape":[)";
    for (size_t axis = 0; axis < tensor.shape.size(); ++axis) {
      json += (axis > 0 ? "," : "") + std::to_string(tensor.shape[axis]);
    }
    json +=
        R"(],"data_offsets":[)" + std::to_string(tensor.offset) + "," + std::to_string(tensor.end()) + "]}";
  }
  json += "}";
  json.resize((json.size() + 7) / 8 * 8, ' ');
  const uint64_t length = json.size();
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + json;
}

}  // namespace nibblecast
