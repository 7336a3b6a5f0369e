// calibration/tokenizer.h - text to token ids by a Hugging Face tokenizer.json; ids equal those of the
// `tokenizers` library. Read: BPE models (byte_fallback, ignore_merges, merges in both spellings),
// pre-tokenizers ByteLevel, Split, Digits, Metaspace, Sequence, normalizers NFC/NFD/NFKC/NFKD/Prepend/Replace/
// Sequence (or none), added
// and special tokens (single_word, lstrip, rstrip, normalized), post-processors TemplateProcessing, ByteLevel
// and Sequence. Anything else in the file is kUnsupported by name; its truncation and padding settings are
// not applied. Immutable after load: safe from several threads.
//
// The Unicode tables are those of the installed Oniguruma and utf8proc (Debian 12: Unicode 14), the library
// has its own: on characters assigned with Unicode 14 or later the two may differ.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace nibblecast {

// Appends the next part of a text (valid UTF-8, whole characters) to its argument; false at the end.
using TextParts = std::function<bool(std::string& to)>;

// What encoding takes at most of memory for each byte that it must hold.
inline constexpr size_t kEncodingBytesPerByte = 96;

struct EncodeOptions {
  bool add_special_tokens = true;          // what the post-processor adds
  size_t max_ids = SIZE_MAX;               // truncates as Tokenizer::encode() says
  size_t max_held_bytes = kMostWordBytes;  // of text that nothing cuts
  size_t window_bytes = 64 << 10;          // of text that is looked at at once
  std::string origin = {};                 // of the text, for messages

  // What nothing cuts is one word as a rule; longer ones are no text.
  static constexpr size_t kMostWordBytes = 16 << 20;
};

class Tokenizer {
 public:
  // kBadInput names the file and the place in it: cut short, wrong types, ids that are none or appear twice,
  // merges of tokens that the vocabulary lacks, a pattern that does not compile...
  static Tokenizer load(FileSystem& files, const std::filesystem::path& tokenizer_json);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // `add_special_tokens`: what the post-processor adds. `max_ids` truncates as the library does: the text
  // gives way on its right, special tokens stay (it is exceeded only if they alone do). kBadInput with the
  // byte offset: invalid UTF-8; kBadInput naming the pattern: one that backtracks without end.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens = true,
                              size_t max_ids = SIZE_MAX) const;
  // The same of a text that comes in parts. Ids are those of the whole, but no more is asked for than
  // `max_ids` need, and only a window is held: it is cut where that changes nothing
  // (calibration/pattern_cuts.h). kRefused: it grows to `max_held_bytes`, because nothing in it can be cut.
  std::vector<int32_t> encode(const TextParts& text, const EncodeOptions& options) const;
  std::optional<int32_t> token_id(std::string_view token) const;
  // True if encode("") with special tokens starts with `id`: whether the file itself adds a BOS.
  bool adds_prefix(int32_t id) const;
  size_t vocab_size() const;  // highest id + 1

 private:
  struct Impl;
  class Encoder;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibblecast
