// calibration/token_texts.h - what token ids say, for people. Of a tokenizer.json's vocabulary and added
// tokens alone: bytes of byte-level BPE, "\u2581" as a space and "<0x0A>" as a byte elsewhere.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>

#include "base/file.h"
#include "base/json.h"

namespace nibblecast {

class TokenTexts {
 public:
  explicit TokenTexts(const Json& tokenizer);
  // Nothing where there is no such file, or one that holds no vocabulary: ids say enough then.
  static std::optional<TokenTexts> load(FileSystem& files, const std::filesystem::path& tokenizer_json);

  // Of ids in a row; always valid UTF-8: U+FFFD for each byte of a character that is not whole, and for an id
  // that the file does not have.
  std::string text(std::span<const int32_t> ids) const;

 private:
  std::unordered_map<int32_t, std::string> bytes_;
};

}  // namespace nibblecast
