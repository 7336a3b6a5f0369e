// calibration/parquet.h - Parquet files as calibration sets, through Arrow C++ where the build has it
// (`make parquet`; NIBBLECAST_PARQUET).
#pragma once

#include <memory>
#include <string>

#include "calibration/record_stream.h"

namespace nibblecast {

// Named *.parquet, or begins with Parquet's magic number.
bool is_parquet(FileSystem& files, const std::string& path);

// A row is a record: the columns that read_record() knows, in the file's order of rows. Columns are strings,
// integers, and lists and structs of them; what a struct holds besides counts as null.
// kUnsupported where the build lacks Arrow: says how to get it. kBadInput, with file and row: damaged or cut
// short, none of the columns, text that is not UTF-8.
std::unique_ptr<RecordStream> open_parquet(FileSystem& files, const std::string& path, RecordOptions options);

}  // namespace nibblecast
