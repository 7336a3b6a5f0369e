// calibration/normalizer.h - the `normalizer` of a tokenizer.json: NFC, NFD, NFKC, NFKD, Prepend, Replace,
// and Sequences of them.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "calibration/json_node.h"
#include "calibration/pattern.h"

namespace nibblecast {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// `text` is valid UTF-8. Time is O(n log n), also for long runs of combining marks.
std::string normalize(std::string_view text, NormalForm form);
// Characters that all forms leave as they are, and that join with nothing that is such a character too: ASCII
// and the ideographs of U+3400 to U+9FFF.
bool is_inert(int32_t code);

// Immutable: safe from several threads.
class Normalizer {
 public:
  // nullopt (the file has null): text stays as it is. kUnsupported for any other type, by name.
  explicit Normalizer(const std::optional<JsonNode>& json);
  // Of what lies between two added tokens, or all of a text.
  std::string apply(std::string_view text) const;
  bool is_empty() const { return steps_.empty(); }
  // Only normal forms: what stands at one place of a text changes nothing elsewhere, but where characters
  // join.
  bool is_local() const;

 private:
  // In front of a text that is not empty.
  struct Prepend {
    std::string text;
  };
  // Each match, by the text.
  struct Replace {
    Pattern pattern;
    std::string text;
  };
  using Step = std::variant<NormalForm, Prepend, Replace>;

  void add(const JsonNode& json);
  static std::string apply_step(NormalForm form, std::string text) { return normalize(text, form); }
  static std::string apply_step(const Prepend& step, std::string text);
  static std::string apply_step(const Replace& step, const std::string& text);

  std::vector<Step> steps_;  // applied one after the other
};

}  // namespace nibblecast
