// checkpoint/json_events.h - what the readers of untrusted JSON here share: they take the text event by
// event, so that memory follows what they keep and not what the text nests, and know where they are in it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/printable.h"

namespace nibblecast {

// Walks over the text for the JSON lexer and leaves the place it has come to where an error can see it.
class JsonCursor {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  JsonCursor(const char* at, const char** furthest) : at_(at), furthest_(furthest) {}
  reference operator*() const { return *at_; }
  JsonCursor& operator++() {
    *furthest_ = ++at_;
    return *this;
  }
  bool operator==(const JsonCursor& other) const { return at_ == other.at_; }
  bool operator!=(const JsonCursor& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** furthest_;
};

// Base of a reader: the events that only say what was found, and the errors. `file`, `text` must outlive it.
class JsonEvents {
 public:
  template <class Exception>
  bool parse_error(std::size_t position, const std::string&, const Exception&) {
    where_.offset = offset_base_ + std::max<size_t>(position, 1) - 1;
    throw Error(ErrorKind::kBadInput, where_, "not valid JSON",
                {.hint = "damaged, or not the file it should be?"});
  }

 protected:
  JsonEvents(const std::string& file, std::string_view text, uint64_t offset_base)
      : text_(text), offset_base_(offset_base), furthest_(text.data()), where_{.file = file} {}

  template <class Reader>
  void run(Reader& reader) {
    // The lexer takes a NUL byte for the end of the text and would never see what follows it.
    if (const size_t nul = text_.find('\0'); nul != text_.npos) {
      where_.offset = offset_base_ + nul;
      throw Error(ErrorKind::kBadInput, where_, "not valid JSON", {.found = "a NUL byte"});
    }
    const char* end = text_.data() + text_.size();
    Json::sax_parse(JsonCursor(text_.data(), &furthest_), JsonCursor(end, &furthest_), &reader);
  }

  // Characters taken so far; the last of them ended the event (or the number before it).
  size_t position() const { return static_cast<size_t>(furthest_ - text_.data()); }
  Where here() const {
    Where where = where_;
    where.offset = offset_base_ + std::max<size_t>(position(), 1) - 1;
    return where;
  }
  void set_tensor(std::string_view name) { where_.tensor = printable(name); }
  void clear_tensor() { where_.tensor.clear(); }
  [[noreturn]] void refuse(const std::string& problem, Detail detail = {}) const {
    throw Error(ErrorKind::kBadInput, here(), problem, std::move(detail));
  }

 private:
  std::string_view text_;
  uint64_t offset_base_;
  const char* furthest_;
  Where where_;
};

}  // namespace nibblecast
