// plan/recipe_yaml.h - the part of YAML that recipes are written in, as a tree that remembers its positions.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace nibblecast {

struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  std::string text = {};             // of a scalar, without its quotes
  std::vector<YamlNode> keys = {};   // of a map: scalars, no two alike; keys[i] is the key of items[i]
  std::vector<YamlNode> items = {};  // of a list or map
  int line = 1, column = 1;
};

inline constexpr size_t kMaxRecipeBytes = 64 << 10;

// The one document of a text: plain and quoted scalars, lists, maps. Error kBadInput naming
// origin:line:column for text that is not UTF-8 or not YAML, and for what recipes do without: a second
// document, repeated keys, anchors, aliases, tags, nesting over 8, over 4096 values, over kMaxRecipeBytes.
YamlNode parse_yaml(std::string_view text, const std::string& origin);

// "origin:line:column" of a node, as errors name it.
std::string position(const std::string& origin, const YamlNode& node);

}  // namespace nibblecast
