// plan/glob.h - patterns of module names, as Python's fnmatch.fnmatchcase reads them (the engines match with
// it).
#pragma once

#include <string_view>

namespace nibblecast {

// `*` any text, `?` any byte, `[seq]` and `[!seq]` a byte in or not in seq (with ranges); no escapes; `[`
// without
// `]` is itself. The whole of `text` must match. Time O(pattern * text), whatever the pattern.
bool glob_match(std::string_view pattern, std::string_view text);

}  // namespace nibblecast
