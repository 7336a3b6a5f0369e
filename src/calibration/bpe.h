// calibration/bpe.h - byte pair encoding: the `model` of a tokenizer.json.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "calibration/json_node.h"

namespace nibblecast {

// Immutable: safe from several threads.
class Bpe {
 public:
  // kUnsupported: another model, dropout, prefixes and suffixes of subwords. kBadInput: ids that are no ids
  // or appear twice, an empty vocabulary, merges of or into tokens that it lacks, an unk_token that it lacks.
  explicit Bpe(const JsonNode& json);

  // Appends the ids of one piece (valid UTF-8, below 2 GiB). O(n log n) in its length; takes up to 60 bytes
  // of memory for each of its own.
  void encode(std::string_view piece, std::vector<int32_t>& ids) const;
  std::optional<int32_t> id(std::string_view token) const;
  size_t size() const { return ids_.size(); }
  int32_t highest_id() const { return highest_id_; }

 private:
  struct Merge {
    uint32_t rank = 0;
    int32_t id = 0;
  };
  struct TextHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  class Merger;

  void read_vocabulary(const JsonNode& vocabulary);
  void read_merges(const JsonNode& merges);
  int32_t token_of_merge(const JsonNode& merge, const std::string& token) const;
  std::vector<int32_t> symbols(std::string_view piece) const;
  bool append_bytes(std::string_view character, std::vector<int32_t>& ids) const;
  const Merge* merge(int32_t left, int32_t right) const;

  std::unordered_map<std::string, int32_t, TextHash, std::equal_to<>> ids_;
  std::unordered_map<uint64_t, Merge> merges_;    // left << 32 | right
  std::vector<std::optional<int32_t>> byte_ids_;  // of "<0x00>" ... "<0xFF>"; empty without byte_fallback
  std::optional<int32_t> unknown_;
  int32_t highest_id_ = -1;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
};

}  // namespace nibblecast
