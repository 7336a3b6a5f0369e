// calibration/record_stream.h - the records of a calibration file, one by one.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/file.h"
#include "calibration/record.h"
#include "calibration/text_reader.h"

namespace nibblecast {

// Reads no further than it is asked to. A record's `more` is good until the next one is asked for.
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

// `source`: a path, or "-" for standard input. What a file is, its content says:
//
//   Parquet's magic, or named *.parquet   calibration/parquet.h
//   { first                               JSON objects one after the other (JSON lines; they may span lines)
//   [ first                               one JSON array of objects or strings
//   a first line that is a JSON string    JSON strings one after the other
//   a header row with a known column      a table, with commas, tabs or semicolons (calibration/csv_reader.h)
//   anything else                         plain text: one text, which its `more` reads
//
// A record that is read takes bounded memory (calibration/held_text.h). Errors: kBadInput with file, line,
// row or element, and byte offset: not UTF-8, binary (NUL bytes), compressed, not JSON though it begins like
// it, a table without a column that holds texts, nothing but white space, no record (read_record).
std::unique_ptr<RecordStream> open_records(FileSystem& files, const std::string& source,
                                           RecordOptions options);
// The same of a text that `source` gives.
std::unique_ptr<RecordStream> read_records(ByteSource source, std::optional<uint64_t> source_bytes,
                                           std::string name, RecordOptions options);

}  // namespace nibblecast
