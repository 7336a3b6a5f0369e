// Any bytes as job.json, as they are and with the checksum that they should have: refused with Error, or a
// job.
#include "base/hash.h"
#include "faults/memory_files.h"
#include "fuzzing.h"
#include "job_folder.h"

namespace nibblecast {
namespace {

void try_job(std::string_view text) {
  testing::MemoryFiles machine;
  fuzzing::put_job(machine, "job.json", text);
  fuzzing::require(read_job(machine, "/j").has_value());
}

std::string with_checksum(std::string_view text) {
  Json document = parse_json(text, "job");
  if (!document.is_object()) return std::string(text);
  const auto dump = [&] { return document.dump(-1, ' ', true, Json::error_handler_t::replace); };
  document.erase("checksum");
  Hash hash;
  hash.add(dump());
  document["checksum"] = hash.hex();
  return dump();
}

}  // namespace
}  // namespace nibblecast

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace nibblecast;
  const std::string_view text = fuzzing::text_of(bytes, size);
  fuzzing::refused_or([&] { try_job(text); });
  fuzzing::refused_or([&] { try_job(with_checksum(text)); });
  return 0;
}
