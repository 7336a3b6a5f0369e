#include "plan/recipe_yaml.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <sstream>

#include "base/error.h"
#include "calibration/utf8.h"
#include "checkpoint/printable.h"

namespace nibblecast {
namespace {

constexpr size_t kMaxDepth = 8;
constexpr size_t kMaxValues = 4096;

using Kind = YamlNode::Kind;

[[noreturn]] void refuse(const std::string& where, const std::string& problem) {
  throw Error(ErrorKind::kBadInput, {.file = where}, problem);
}

// Builds the tree from the parser's events. Limits are checked at each, so that no tree grows large.
class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(const std::string& origin) : origin_(origin) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    add(make(Kind::kNull, mark, "", anchor));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    refuse(position(origin_, place(mark)), "an alias; recipes are written out");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    YamlNode node = make(Kind::kScalar, mark, tag, anchor);
    node.text = value;
    add(std::move(node));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(make(Kind::kList, mark, tag, anchor));
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(make(Kind::kMap, mark, tag, anchor));
  }
  void OnMapEnd() override { close(); }

  YamlNode take() { return std::move(root_); }

 private:
  static YamlNode place(const YAML::Mark& mark) {
    YamlNode node;
    node.line = mark.line + 1;
    node.column = mark.column + 1;
    return node;
  }

  YamlNode make(Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    YamlNode node = place(mark);
    node.kind = kind;
    if (anchor != YAML::NullAnchor) refuse(position(origin_, node), "an anchor; recipes are written out");
    // The parser gives "?" to what has no tag, and "!" to quoted text.
    if (!tag.empty() && tag != "?" && tag != "!") refuse(position(origin_, node), "a tag; recipes have none");
    if (++values_ > kMaxValues) refuse(position(origin_, node), fmt::format("over {} values", kMaxValues));
    return node;
  }

  void open(YamlNode node) {
    if (open_.size() == kMaxDepth)
      refuse(position(origin_, node), fmt::format("nested deeper than {}", kMaxDepth));
    if (expects_key()) refuse(position(origin_, node), "a key that is a list or a map");
    open_.push_back(std::move(node));
  }

  void close() {
    YamlNode node = std::move(open_.back());
    open_.pop_back();
    add(std::move(node));
  }

  bool expects_key() const {
    return !open_.empty() && open_.back().kind == Kind::kMap &&
           open_.back().keys.size() == open_.back().items.size();
  }

  void add(YamlNode node) {
    if (open_.empty())
      root_ = std::move(node);
    else if (expects_key())
      add_key(std::move(node));
    else
      open_.back().items.push_back(std::move(node));
  }

  void add_key(YamlNode key) {
    std::vector<YamlNode>& keys = open_.back().keys;
    if (key.kind != Kind::kScalar) refuse(position(origin_, key), "a key that is no word");
    if (std::ranges::any_of(keys, [&](const YamlNode& other) { return other.text == key.text; }))
      refuse(position(origin_, key), fmt::format("key '{}' appears twice", printable(key.text)));
    keys.push_back(std::move(key));
  }

  const std::string& origin_;
  YamlNode root_;
  std::vector<YamlNode> open_;  // maps and lists that are being filled, outermost first
  size_t values_ = 0;
};

void check_text(std::string_view text, const std::string& origin) {
  if (text.size() > kMaxRecipeBytes)
    refuse(origin, fmt::format("a recipe of over {} bytes", kMaxRecipeBytes));
  const auto is_control = [](char byte) {
    return static_cast<unsigned char>(byte) < 0x20 && byte != '\n' && byte != '\r' && byte != '\t';
  };
  const size_t control = static_cast<size_t>(std::ranges::find_if(text, is_control) - text.begin());
  const size_t bad = std::min(control, find_invalid_utf8(text).value_or(text.size()));
  if (bad == text.size()) return;
  const std::string_view before = text.substr(0, bad);
  YamlNode place;
  place.line = 1 + static_cast<int>(std::ranges::count(before, '\n'));
  place.column = static_cast<int>(bad - (before.rfind('\n') + 1)) + 1;
  refuse(position(origin, place), "not text in UTF-8");
}

}  // namespace

std::string position(const std::string& origin, const YamlNode& node) {
  return fmt::format("{}:{}:{}", origin, node.line, node.column);
}

YamlNode parse_yaml(std::string_view text, const std::string& origin) {
  check_text(text, origin);
  TreeBuilder builder(origin);
  std::istringstream stream{std::string(text)};
  YamlNode place;
  try {
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) return {};
    YamlNode root = builder.take();
    if (parser) refuse(origin, "more than one document");
    return root;
  } catch (const YAML::Exception& error) {
    place.line = std::max(0, error.mark.line) + 1;
    place.column = std::max(0, error.mark.column) + 1;
  }
  refuse(position(origin, place), "not valid YAML");
}

}  // namespace nibblecast
