#include "base/json.h"

#include <unordered_set>
#include <vector>

#include "base/error.h"

namespace nibblecast {
namespace {

constexpr size_t kMaxDepth = 64;

// Builds the value through nlohmann's own SAX builder, watching depth and keys on the way.
class StrictBuilder : public nlohmann::detail::json_sax_dom_parser<Json> {
  using Base = nlohmann::detail::json_sax_dom_parser<Json>;

 public:
  explicit StrictBuilder(Json& value) : Base(value, /*allow_exceptions=*/false) {}

  bool start_object(std::size_t size) {
    keys_.emplace_back();
    return enter() && Base::start_object(size);
  }
  bool key(string_t& name) {
    if (!keys_.back().insert(name).second) return fail("key '" + name + "' appears twice");
    return Base::key(name);
  }
  bool end_object() {
    keys_.pop_back();
    --depth_;
    return Base::end_object();
  }
  bool start_array(std::size_t size) { return enter() && Base::start_array(size); }
  bool end_array() {
    --depth_;
    return Base::end_array();
  }
  template <class Exception>
  bool parse_error(std::size_t position, const std::string&, const Exception&) {
    position_ = position;
    return fail("not valid JSON");
  }

  const std::string& problem() const { return problem_; }
  std::size_t position() const { return position_; }

 private:
  bool enter() { return ++depth_ <= kMaxDepth || fail("nested too deeply"); }
  bool fail(std::string problem) {
    if (problem_.empty()) problem_ = std::move(problem);
    return false;
  }

  std::vector<std::unordered_set<std::string>> keys_;
  size_t depth_ = 0;
  std::string problem_;
  std::size_t position_ = 0;
};

}  // namespace

Json parse_json(std::string_view text, const std::string& file, uint64_t offset_base) {
  // The parser takes a NUL for the end of the text.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    throw Error(ErrorKind::kBadInput, {.file = file, .offset = offset_base + nul},
                "not valid JSON: a NUL byte");
  }
  Json root;
  StrictBuilder builder(root);
  if (Json::sax_parse(text.begin(), text.end(), &builder) && builder.problem().empty()) return root;
  Where where{.file = file};
  if (builder.position() > 0) where.offset = offset_base + builder.position() - 1;
  throw Error(ErrorKind::kBadInput, where, builder.problem().empty() ? "not valid JSON" : builder.problem(),
              {.hint = "is the file complete, and is it the one meant?"});
}

Json at_or_null(const Json& object, const std::string& key) {
  return object.is_object() && object.contains(key) ? object.at(key) : Json();
}

std::vector<std::string> strings_of(const Json& list) {
  std::vector<std::string> strings;
  if (!list.is_array()) return strings;
  for (const Json& each : list)
    if (each.is_string()) strings.push_back(each);
  return strings;
}

}  // namespace nibblecast
