// cli/job_run.h - what the commands that run a job have in common.
#pragma once

#include "base/error.h"
#include "cli/common_options.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "pipeline/job.h"
#include "pipeline/run.h"

namespace nibblecast {

inline constexpr const char* kResumeHint = "run the same command again to go on";

// Puts the command that runs, and what its options say, into the job's description.
void describe_command(const CommonOptions& common, const Plan& plan, FileSystem& files, JobDescription& job);

// The rows of the job in `folder`, as its command read them: for --export-only without the texts. Error
// kRefused where there are none, or not the job's.
Activations saved_activations(FileSystem& files, const std::filesystem::path& folder,
                              const ForwardDevice& device);

// What earlier attempts left, as a line on stderr.
void report_resumption(Job& job, bool quiet);

// What a command makes an output of, in a job that is open.
struct OutputRun {
  const Checkpoint& source;
  const Plan& plan;
  const Activations& activations;
  Job& job;
  const std::string& destination;
  const std::string& base_model;  // of the model card
};

// Makes it, from where the job is, with its documents; progress goes to `printer`, notes become warnings.
RunRecord make_output(const OutputRun& run, RunOptions options, const InterruptWatch& watch,
                      ProgressPrinter& printer);

// The value of `run()`; an Error is noted in the job's record on its way out, and the end at a signal's
// deadline.
template <class Run>
auto ending_noted(Job& job, const Run& run) {
  const DeadlineNote at_deadline([&job](const std::string& reason) { job.note_end(reason); });
  try {
    return run();
  } catch (const Error& error) {
    job.note_end(error.what());
    throw;
  }
}

}  // namespace nibblecast
