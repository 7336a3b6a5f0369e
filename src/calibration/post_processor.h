// calibration/post_processor.h - the `post_processor` of a tokenizer.json: the special tokens around a text.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "calibration/json_node.h"

namespace nibblecast {

// Immutable: safe from several threads.
class PostProcessor {
 public:
  // TemplateProcessing, ByteLevel (which moves offsets only) and a Sequence with at most one template;
  // kUnsupported for any other type, by name.
  explicit PostProcessor(const std::optional<JsonNode>& json);

  std::vector<int32_t> apply(const std::vector<int32_t>& text, bool add_special_tokens) const;
  // How many ids are added around a text.
  size_t added() const;
  int32_t highest_id() const;  // -1 if there are none

 private:
  void add(const JsonNode& json);
  void read_template(const JsonNode& json);

  // What stands in the output, in order: the text, or a special token's ids.
  struct Piece {
    bool is_text = false;
    std::vector<int32_t> ids;
  };
  std::vector<Piece> pieces_;
  bool has_template_ = false;
};

}  // namespace nibblecast
