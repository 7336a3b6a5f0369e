// cli/job_run.h - what the commands that run a job have in common.
#pragma once

#include "base/error.h"
#include "pipeline/job.h"

namespace nibblecast {

inline constexpr const char* kResumeHint = "run the same command again to go on";

// What earlier attempts left, as a line on stderr.
void report_resumption(Job& job, bool quiet);

// The value of `run()`; an Error is noted in the job's record on its way out.
template <class Run>
auto ending_noted(Job& job, const Run& run) {
  try {
    return run();
  } catch (const Error& error) {
    job.note_end(error.what());
    throw;
  }
}

}  // namespace nibblecast
