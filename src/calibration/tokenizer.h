// calibration/tokenizer.h - text to token ids by a Hugging Face tokenizer.json; ids equal those of the
// `tokenizers` library. Read: BPE models (byte_fallback, ignore_merges, merges in both spellings),
// pre-tokenizers ByteLevel, Split, Digits, Sequence, normalizers NFC/NFD/NFKC/NFKD/Sequence (or none), added and
// special tokens (single_word, lstrip, rstrip, normalized), post-processors TemplateProcessing, ByteLevel and Sequence.
// Anything else in the file is kUnsupported by name. Immutable after load: safe from several threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace nibblecast {

class Tokenizer {
 public:
  static Tokenizer load(FileSystem& files, const std::filesystem::path& tokenizer_json);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // `add_special_tokens`: what the post-processor adds. Invalid UTF-8 is kBadInput with the byte offset.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens = true) const;
  std::optional<int32_t> token_id(std::string_view token) const;
  // True if encode("") with special tokens starts with `id`: whether the file itself adds a BOS.
  bool adds_prefix(int32_t id) const;
  size_t vocab_size() const;  // highest id + 1

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibblecast
