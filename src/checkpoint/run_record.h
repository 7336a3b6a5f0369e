// checkpoint/run_record.h - nibblecast.json, and the long parts of the record in a folder beside it.
// docs/formats/nibblecast-json.md.
#pragma once

#include <filesystem>

#include "base/file.h"
#include "base/json.h"

namespace nibblecast {

inline constexpr const char* kRecordName = "nibblecast.json";
inline constexpr const char* kRecordFolder = "nibblecast";
inline constexpr const char* kRecordSourceName = "nibblecast/source.json";  // "source": config, index, shards
inline constexpr const char* kRecordChecksumsName = "nibblecast/checksums.json";  // "checksums"

// The record of `folder`, with its parts as if it were one file; what nibblecast.json itself holds counts, so
// that one written before there were parts reads as it is. A part that is missing is left out. Errors: those
// of reading and parsing.
Json read_run_record(FileSystem& files, const std::filesystem::path& folder);

}  // namespace nibblecast
