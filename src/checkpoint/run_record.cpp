#include "checkpoint/run_record.h"

namespace nibblecast {
namespace {

constexpr uint64_t kRecordLimit = 1 << 30;

Json document(FileSystem& files, const std::filesystem::path& path) {
  return parse_json(read_text(files, path, kRecordLimit), path.string());
}

}  // namespace

Json read_run_record(FileSystem& files, const std::filesystem::path& folder) {
  Json record = document(files, folder / kRecordName);
  if (!record.is_object()) return record;
  if (!record.contains("checksums") && files.status(folder / kRecordChecksumsName))
    record["checksums"] = document(files, folder / kRecordChecksumsName);
  if (record.contains("source") && record["source"].is_object() && files.status(folder / kRecordSourceName)) {
    Json part = document(files, folder / kRecordSourceName);
    if (!part.is_object()) return record;
    part.update(record["source"]);
    record["source"] = std::move(part);
  }
  return record;
}

}  // namespace nibblecast
