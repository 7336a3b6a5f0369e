// faults/timed_fields.h - what of nibblecast.json differs between two runs of one job.
#pragma once

namespace nibblecast::testing {

inline constexpr const char* kTimedFields[] = {"finished", "seconds", "attempts", "bytes", "stages"};

}  // namespace nibblecast::testing
