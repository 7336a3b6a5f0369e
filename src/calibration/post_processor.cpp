#include "calibration/post_processor.h"

#include <algorithm>

namespace nibblecast {

PostProcessor::PostProcessor(const std::optional<JsonNode>& json) {
  if (json) add(*json);
  if (!has_template_) pieces_.push_back({.is_text = true, .ids = {}});
}

void PostProcessor::add(const JsonNode& json) {
  const std::string& type = json.at("type").text();
  if (type == "TemplateProcessing") {
    if (has_template_) json.unsupported("a second TemplateProcessing");
    read_template(json);
  } else if (type == "Sequence") {
    const JsonNode parts = json.at("processors");
    for (size_t i = 0; i < parts.size(); ++i) add(parts.at(i));
  } else if (type != "ByteLevel") {
    json.unsupported("post-processor '" + type + "'");
  }
}

void PostProcessor::read_template(const JsonNode& json) {
  has_template_ = true;
  const JsonNode single = json.at("single");
  for (size_t i = 0; i < single.size(); ++i) {
    const JsonNode piece = single.at(i);
    if (const auto sequence = piece.find("Sequence")) {
      if (sequence->at("id").text() != "A") sequence->fail("a second text in the template of a single one");
      pieces_.push_back({.is_text = true, .ids = {}});
      continue;
    }
    const JsonNode name = piece.at("SpecialToken").at("id");
    const auto special = json.at("special_tokens").find(name.text().c_str());
    if (!special) name.fail("'" + name.text() + "' is not among special_tokens");
    const JsonNode ids = special->at("ids");
    Piece& added = pieces_.emplace_back();
    for (size_t k = 0; k < ids.size(); ++k) added.ids.push_back(ids.at(k).token_id());
  }
}

std::vector<int32_t> PostProcessor::apply(const std::vector<int32_t>& text, bool add_special_tokens) const {
  std::vector<int32_t> ids;
  for (const Piece& piece : pieces_) {
    if (piece.is_text) ids.insert(ids.end(), text.begin(), text.end());
    if (!piece.is_text && add_special_tokens) ids.insert(ids.end(), piece.ids.begin(), piece.ids.end());
  }
  return ids;
}

size_t PostProcessor::added() const {
  size_t count = 0;
  for (const Piece& piece : pieces_) count += piece.ids.size();
  return count;
}

int32_t PostProcessor::highest_id() const {
  int32_t highest = -1;
  for (const Piece& piece : pieces_) {
    for (const int32_t id : piece.ids) highest = std::max(highest, id);
  }
  return highest;
}

}  // namespace nibblecast
