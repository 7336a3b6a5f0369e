// calibration/normalizer.h - the `normalizer` of a tokenizer.json: NFC, NFD, NFKC, NFKD and Sequences of
// them.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "calibration/json_node.h"

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
  std::string apply(std::string_view text) const;
  bool is_empty() const { return forms_.empty(); }

 private:
  void add(const JsonNode& json);

  std::vector<NormalForm> forms_;  // applied one after the other
};

}  // namespace nibblecast
