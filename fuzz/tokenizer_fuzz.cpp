// Any bytes as a tokenizer.json: refused with Error, or a tokenizer whose ids do not depend on how a text
// comes.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "calibration/tokenizer.h"
#include "faults/memory_files.h"
#include "fuzzing.h"

namespace nibblecast {
namespace {

using fuzzing::require;

void check(const Tokenizer& tokenizer, const std::string& text) {
  const std::vector<int32_t> ids = tokenizer.encode(text);
  for (const int32_t id : ids) require(id >= 0 && static_cast<size_t>(id) < tokenizer.vocab_size());
  const auto parts = [&text, at = size_t{0}](std::string& to) mutable {
    if (at == text.size()) return false;
    const size_t end = text.find(' ', at) == std::string::npos ? text.size() : text.find(' ', at) + 1;
    to.append(text, at, end - at);
    at = end;
    return true;
  };
  require(tokenizer.encode(parts, {.window_bytes = 16}) == ids);
}

void try_tokenizer(std::string_view json) {
  testing::MemoryFiles files;
  fuzzing::put_file(files, "/model/tokenizer.json", json);
  const Tokenizer tokenizer = Tokenizer::load(files, "/model/tokenizer.json");
  check(tokenizer, "");
  check(tokenizer, "aab <s>  b12\nca\u0301 \u91cf\u5316 it's!! a\r\n\r\n   <s> \u00df\U0001f44d a");
}

}  // namespace
}  // namespace nibblecast

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace nibblecast;
  fuzzing::refused_or([&] { try_tokenizer(fuzzing::text_of(bytes, size)); });
  return 0;
}
