// A job's journal of any bytes, and one with any JSON lines as entries whose checksums hold: what holds is
// read, the rest ends it, and what no version of ours wrote is refused with Error.
#include "faults/memory_files.h"
#include "fuzzing.h"
#include "job_folder.h"
#include "pipeline/journal.h"

namespace nibblecast {
namespace {

using fuzzing::require;

void read_whole(FileSystem& machine) {
  const std::optional<JobRecord> record = read_job(machine, "/j");
  require(record.has_value());
  const uint64_t size = machine.status("/j/journal")->size_bytes;
  require(record->journal_bytes + record->torn_bytes == size);
}

void try_bytes(std::string_view text) {
  testing::MemoryFiles machine;
  fuzzing::put_job(machine, "journal", text);
  read_whole(machine);
}

void try_entries(std::string_view text) {
  testing::MemoryFiles machine;
  fuzzing::put_job(machine, "journal", fuzzing::begun_job().at("journal"));
  Journal journal(machine, "/j/journal", read_journal(machine, "/j/journal", [](const Json&) {}));
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    journal.append(parse_json(line, "line"));
  }
  read_whole(machine);
}

}  // namespace
}  // namespace nibblecast

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace nibblecast;
  const std::string_view text = fuzzing::text_of(bytes, size);
  fuzzing::refused_or([&] { try_bytes(text); });
  fuzzing::refused_or([&] { try_entries(text); });
  return 0;
}
