// calibration/record_stream.h - the records of a calibration file, one by one.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/file.h"
#include "calibration/record.h"

namespace nibblecast {

// Reads no further than it is asked to.
class RecordStream {
 public:
  virtual ~RecordStream() = default;
  virtual std::optional<Record> next() = 0;  // nullopt at the end
};

// How a stream makes records of what it reads: see read_record().
struct RecordOptions {
  uint64_t vocab_size = 0;
  std::string column = {};
};

// `source`: a path, or "-" for standard input. A file that begins with Parquet's magic or is named *.parquet
// is read as that (calibration/parquet.h). A file whose first non-blank character is '{' is JSONL, a record a
// line. Any other file is one plain text. Errors: kBadInput with file, line or row, and byte offset: not
// UTF-8, not JSON, no record (read_record); a binary file (NUL bytes) is refused.
std::unique_ptr<RecordStream> open_records(FileSystem& files, const std::string& source,
                                           RecordOptions options);

}  // namespace nibblecast
