// calibration/joined_records.h - the records of a set as one text.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/file.h"
#include "calibration/calibration_set.h"
#include "calibration/record_stream.h"

namespace nibblecast {

// One record: the texts of all records of the set's files, empty ones too, with `set.joint` between them; its
// `more` reads them as it is asked to. Errors as those of open_records(), and kBadInput for token ids.
// `files` and `set` outlive the stream.
std::unique_ptr<RecordStream> join_records(FileSystem& files, const CalibrationSet& set,
                                           RecordOptions options);

}  // namespace nibblecast
