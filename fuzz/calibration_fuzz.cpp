// Any bytes as a calibration file: refused with Error, or records of text and ids, the same however the bytes
// come.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "calibration/record_stream.h"
#include "calibration/utf8.h"
#include "fuzzing.h"

namespace nibblecast {
namespace {

using fuzzing::require;

constexpr uint64_t kVocabulary = 1000;

void check(const Record& record) {
  require(!find_invalid_utf8(record.text));
  if (!record.ids) return;
  for (const int32_t id : *record.ids) require(id >= 0 && static_cast<uint64_t>(id) < kVocabulary);
}

// All that is read, `step` bytes at a time, and how it ended.
std::string read_all(std::string_view file, const std::string& key, size_t step) {
  std::string all;
  try {
    const auto source = [bytes = source_of(file), step](std::span<std::byte> to) mutable {
      return bytes(to.first(std::min(step, to.size())));
    };
    const auto records =
        read_records(source, file.size(), "file", {.vocab_size = kVocabulary, .column = key});
    while (auto record = records->next()) {
      while (record->more && record->more(record->text)) {
      }
      check(*record);
      all += record->text + '\n';
      if (record->ids) all += std::to_string(record->ids->size()) + " ids\n";
    }
  } catch (const Error& error) {
    all += error.what();
  }
  return all;
}

void try_file(std::string_view file) {
  for (const std::string key : {"", "body"}) require(read_all(file, key, SIZE_MAX) == read_all(file, key, 5));
}

}  // namespace
}  // namespace nibblecast

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  nibblecast::try_file(nibblecast::fuzzing::text_of(bytes, size));
  return 0;
}
