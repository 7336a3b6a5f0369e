#include "checkpoint/index.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "checkpoint/json_events.h"
#include "checkpoint/printable.h"

namespace nibblecast {
namespace {

// Far above any release; they bound what a hostile index makes us keep.
constexpr size_t kMaxShards = 100'000;
constexpr size_t kMaxTopKeys = 1000;
constexpr size_t kMaxMetadataBytes = 1'000'000;
constexpr size_t kMaxDepth = 64;

bool leaves_folder(const std::filesystem::path& path) {
  return path.is_absolute() || std::ranges::find(path, "..") != path.end();
}

class IndexReader : public JsonEvents {
 public:
  IndexReader(std::string_view text, const std::string& file)
      : JsonEvents(file, text, 0), text_(text), file_(file) {}

  CheckpointIndex read() {
    run(*this);
    if (!top_keys_.contains("weight_map"))
      throw Error(ErrorKind::kBadInput, {.file = file_}, "has no 'weight_map'");
    sort_shards();
    sort_tensors();
    return std::move(index_);
  }

  bool null() { return scalar("null"); }
  bool boolean(bool) { return scalar("a boolean"); }
  bool number_integer(Json::number_integer_t) { return scalar("a number"); }
  bool number_unsigned(Json::number_unsigned_t) { return scalar("a number"); }
  bool number_float(Json::number_float_t, const std::string&) { return scalar("a number"); }
  bool binary(Json::binary_t&) { return scalar("binary data"); }

  bool string(std::string& text) {
    if (place_ != Place::kShard) return scalar("a string");
    index_.weight_map.back().shard = shard_number(text);
    place_ = Place::kWeightMap;
    clear_tensor();
    return true;
  }

  bool key(std::string& key) {
    if (place_ == Place::kTop) {
      if (top_keys_.size() == kMaxTopKeys) refuse("too many keys to be an index");
      if (!top_keys_.insert(key).second) refuse("key '" + printable(key) + "' appears twice");
      is_metadata_ = key == "metadata";
      place_ = key == "weight_map" ? Place::kWeightMapObject : Place::kOther;
    } else if (place_ == Place::kWeightMap) {
      set_tensor(key);
      index_.weight_map.push_back({.tensor = std::move(key)});
      place_ = Place::kShard;
    }
    return true;
  }

  bool start_object(std::size_t) {
    if (place_ == Place::kDocument) {
      place_ = Place::kTop;
    } else if (place_ == Place::kWeightMapObject) {
      place_ = Place::kWeightMap;
    } else {
      enter("an object");
    }
    return true;
  }
  bool start_array(std::size_t) {
    if (is_metadata_ && depth_ == 0) refuse("'metadata' is not an object", {.found = "an array"});
    enter("an array");
    return true;
  }
  bool end_object() {
    if (place_ == Place::kOther) return leave();
    place_ = Place::kTop;
    return true;
  }
  bool end_array() { return leave(); }

 private:
  // What may come next; kOther: any value that is passed over, or the inside of one.
  enum class Place { kDocument, kTop, kWeightMapObject, kWeightMap, kShard, kOther };

  bool scalar(const char* found) {
    if (place_ != Place::kOther) unexpected(found);
    if (depth_ > 0) return true;
    if (is_metadata_ && std::string_view(found) != "null")
      refuse("'metadata' is not an object", {.found = found});
    place_ = Place::kTop;
    return true;
  }

  void enter(const char* found) {
    if (place_ != Place::kOther) unexpected(found);
    if (depth_++ == 0) begin_ = position() - 1;
    if (depth_ > kMaxDepth) refuse("nested too deeply");
  }

  bool leave() {
    if (--depth_ > 0) return true;
    place_ = Place::kTop;
    if (!std::exchange(is_metadata_, false)) return true;
    const std::string_view text = text_.substr(begin_, position() - begin_);
    if (text.size() > kMaxMetadataBytes) refuse("'metadata' is too large");
    index_.metadata = parse_json(text, file_, begin_);
    return true;
  }

  [[noreturn]] void unexpected(const char* found) const {
    const char* expected = place_ == Place::kShard             ? "the name of a shard"
                           : place_ == Place::kWeightMapObject ? "'weight_map' to be an object"
                                                               : "an object";
    refuse("not what an index holds", {.expected = expected, .found = found});
  }

  // Numbers in the order of first mention, until sort_shards.
  uint32_t shard_number(const std::string& name) {
    if (const auto known = numbers_.find(name); known != numbers_.end()) return known->second;
    const std::string shown = "'" + printable(name) + "'";
    if (name.empty() || printable(name) != name) refuse("the shard's name is no file name", {.found = shown});
    if (leaves_folder(name)) {
      refuse("the shard lies outside the folder",
             {.found = shown, .hint = "shards must lie in the checkpoint's folder"});
    }
    if (numbers_.size() == kMaxShards) refuse("more shards than any checkpoint has");
    return numbers_.emplace(name, static_cast<uint32_t>(numbers_.size())).first->second;
  }

  void sort_shards() {
    std::vector<uint32_t> sorted_number(numbers_.size());
    for (const auto& [name, number] : numbers_) {
      sorted_number[number] = static_cast<uint32_t>(index_.shards.size());
      index_.shards.push_back(name);
    }
    for (auto& entry : index_.weight_map) entry.shard = sorted_number[entry.shard];
  }

  void sort_tensors() {
    std::ranges::sort(index_.weight_map, {}, &CheckpointIndex::Entry::tensor);
    const auto twice = std::ranges::adjacent_find(index_.weight_map, {}, &CheckpointIndex::Entry::tensor);
    if (twice == index_.weight_map.end()) return;
    throw Error(ErrorKind::kBadInput, {.file = file_, .tensor = printable(twice->tensor)},
                "appears twice in weight_map");
  }

  std::string_view text_;
  const std::string& file_;
  CheckpointIndex index_;
  Place place_ = Place::kDocument;
  std::set<std::string> top_keys_;
  std::map<std::string, uint32_t> numbers_;
  bool is_metadata_ = false;
  size_t depth_ = 0;
  size_t begin_ = 0;  // of the value that is passed over
};

}  // namespace

CheckpointIndex parse_index(std::string_view text, const std::string& file) {
  return IndexReader(text, file).read();
}

}  // namespace nibblecast
