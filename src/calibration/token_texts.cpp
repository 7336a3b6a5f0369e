#include "calibration/token_texts.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "calibration/pre_tokenizer.h"
#include "calibration/utf8.h"

namespace nibblecast {
namespace {

constexpr uint64_t kMostJsonBytes = 256 << 20;
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD
constexpr std::string_view kSpace = "\xE2\x96\x81";        // U+2581

// Whether a part of `json` is {"type": "ByteLevel"}.
bool holds_byte_level(const Json& json) {
  if (json.is_object() && at_or_null(json, "type") == "ByteLevel") return true;
  return json.is_structured() && std::ranges::any_of(json, holds_byte_level);
}

// Of byte-level BPE: each character of a token stands for a byte.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    const std::array<std::string, 256> characters = byte_characters();
    for (size_t byte = 0; byte < characters.size(); ++byte)
      bytes_.emplace(characters[byte], static_cast<char>(byte));
  }

  std::string bytes_of(std::string_view token) const {
    std::string bytes;
    for (size_t at = 0; at < token.size();) {
      const std::string character(token.substr(at, character_at(token, at).bytes));
      const auto found = bytes_.find(character);
      bytes += found == bytes_.end() ? character : std::string(1, found->second);
      at += character.size();
    }
    return bytes;
  }

 private:
  std::unordered_map<std::string, char> bytes_;
};

std::string plain_bytes(const std::string& token) {
  if (token.size() == 6 && token.starts_with("<0x") && token.ends_with('>') &&
      token.find_first_not_of("0123456789ABCDEF", 3) == 5)
    return std::string(1, static_cast<char>(std::stoi(token.substr(3, 2), nullptr, 16)));
  std::string bytes = token;
  for (size_t at = bytes.find(kSpace); at != bytes.npos; at = bytes.find(kSpace, at + 1))
    bytes.replace(at, kSpace.size(), " ");
  return bytes;
}

std::string valid_utf8(std::string text) {
  for (auto at = find_invalid_utf8(text); at; at = find_invalid_utf8(text))
    text.replace(*at, 1, kReplacement);
  return text;
}

}  // namespace

TokenTexts::TokenTexts(const Json& tokenizer) {
  const bool byte_level = holds_byte_level(at_or_null(tokenizer, "pre_tokenizer")) ||
                          holds_byte_level(at_or_null(tokenizer, "decoder"));
  const ByteAlphabet alphabet;
  const Json vocabulary = at_or_null(at_or_null(tokenizer, "model"), "vocab");
  for (const auto& [token, id] : vocabulary.items()) {
    if (id.is_number_integer())
      bytes_[id.get<int32_t>()] = byte_level ? alphabet.bytes_of(token) : plain_bytes(token);
  }
  for (const Json& added : at_or_null(tokenizer, "added_tokens")) {
    const Json id = at_or_null(added, "id"), content = at_or_null(added, "content");
    if (id.is_number_integer() && content.is_string()) bytes_[id.get<int32_t>()] = content.get<std::string>();
  }
}

std::optional<TokenTexts> TokenTexts::load(FileSystem& files, const std::filesystem::path& tokenizer_json) {
  if (!files.status(tokenizer_json)) return std::nullopt;
  try {
    TokenTexts texts(parse_json(read_text(files, tokenizer_json, kMostJsonBytes), tokenizer_json.string()));
    if (!texts.bytes_.empty()) return texts;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kBadInput) throw;
  }
  return std::nullopt;
}

std::string TokenTexts::text(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) {
    const auto found = bytes_.find(id);
    text += found == bytes_.end() ? std::string(kReplacement) : found->second;
  }
  return valid_utf8(std::move(text));
}

}  // namespace nibblecast
