// calibration/pre_tokenizer.h - the `pre_tokenizer` of a tokenizer.json: cuts text into the pieces that the
// model encodes one by one.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "calibration/json_node.h"

namespace nibblecast {

// Pieces of one text, none empty, each a view into a string that the steps keep.
struct Pieces {
  std::vector<std::string_view> views;
  std::deque<std::string> strings;  // a deque: growing it does not move them
};

// One step. Immutable: safe from several threads.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(Pieces& pieces) const = 0;
};

// nullopt (the file has null): one step that changes nothing. Split, Digits, ByteLevel and Sequence;
// kUnsupported for any other type, by name.
std::unique_ptr<PreTokenizer> make_pre_tokenizer(const std::optional<JsonNode>& json);

}  // namespace nibblecast
