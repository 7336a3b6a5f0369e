// model/config_reader.h - the keys of a config.json, read strictly: what is missing, mistyped, absurd or
// contradicting is refused by its name. A key whose value is null counts as absent, as transformers writes
// values that are not set.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"

namespace nibblecast {

// No dimension of a real model comes near 2^24, and with widths (products of two) below 2^26 the size of
// every matrix stays far below 2^63 bytes.
inline constexpr uint64_t kMaxDimension = uint64_t{1} << 24;
inline constexpr uint64_t kMaxWidth = uint64_t{1} << 26;
inline constexpr uint64_t kMaxLayers = 4096;
// Bounds the table of tensors that a hostile config can make us build: layers * experts (V4-Pro: 23,424).
inline constexpr uint64_t kMaxExperts = uint64_t{1} << 18;
inline constexpr uint64_t kMaxPositions = uint64_t{1} << 40;

// For messages, at most 80 characters.
std::string value_text(const Json& value);
// nullopt for anything but a whole number >= 0.
std::optional<uint64_t> whole_number(const Json& value);

// One JSON object of the config; `path` is in front of its keys in messages ("rope_scaling."). Object and
// file's name outlive it.
class ConfigReader {
 public:
  // kBadInput where `object` is none.
  ConfigReader(const Json& object, const std::string& file, std::string path = "");

  [[noreturn]] void refuse(ErrorKind kind, const std::string& key, const std::string& problem,
                           const std::string& expected, const std::string& found,
                           const std::string& hint = "") const;
  [[noreturn]] void refuse_value(const std::string& key, const std::string& expected,
                                 const std::string& found) const;
  [[noreturn]] void refuse_unsupported(const std::string& key, const std::string& supported,
                                       const std::string& found) const;
  [[noreturn]] void refuse_missing(const std::string& key) const;
  // Two spellings of one value that differ.
  [[noreturn]] void refuse_contradiction(const std::string& key, const std::string& found,
                                         const std::string& other_key, const std::string& other) const;

  // nullptr where the key is absent.
  const Json* find(const std::string& key) const;
  // The key is there, with the value null.
  bool is_null(const std::string& key) const;

  std::optional<uint64_t> maybe_integer(const std::string& key, uint64_t least, uint64_t most) const;
  uint64_t integer(const std::string& key, uint64_t least = 1, uint64_t most = kMaxDimension) const;
  // Under any of its names, an empty one being none; several may stand there when they agree.
  std::optional<uint64_t> maybe_integer_of(const std::vector<std::string>& keys, uint64_t least,
                                           uint64_t most) const;
  uint64_t integer_of(const std::vector<std::string>& keys, uint64_t least = 1,
                      uint64_t most = kMaxDimension) const;
  // Finite and > 0.
  std::optional<double> maybe_positive(const std::string& key) const;
  double positive(const std::string& key) const;
  std::optional<bool> maybe_flag(const std::string& key) const;
  std::optional<std::string> maybe_string(const std::string& key) const;
  std::optional<ConfigReader> maybe_section(const std::string& key) const;
  // An array with at least `least` entries; nullptr where absent.
  const Json* maybe_array(const std::string& key, uint64_t least) const;
  // Of a token below vocab_size, of several the first; -1 where absent.
  int64_t token_id(const std::string& key, uint64_t vocab_size) const;

  // An option of the architecture whose other values the forward pass does not know. Of an array every entry.
  void only(const std::string& key, const Json& supported) const;
  // `why` names `of`: "o_groups = ".
  void require_multiple(const std::string& key, uint64_t value, uint64_t of, const std::string& why) const;
  void require_most(const std::string& key, uint64_t value, const std::string& name, uint64_t most) const;

 private:
  const Json& object_;
  const std::string& file_;
  std::string path_;
};

}  // namespace nibblecast
