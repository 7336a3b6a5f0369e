#include "cli/job_run.h"

#include <fmt/format.h>

#include "cli/console.h"
#include "cli/text.h"

namespace nibblecast {

void report_resumption(Job& job, bool quiet) {
  if (quiet || !job.resumed()) return;
  const JobState& state = job.state();
  std::string text = fmt::format("resuming (attempt {}): {} tensors, {}, are done", state.attempts.size(),
                                 grouped(state.tensors.size()), size_text(state.durable_bytes));
  if (!state.layers.empty()) text += fmt::format("; {} layers are calibrated", state.layers.size());
  if (state.streams) text += fmt::format(", the state after layer {} is saved", state.streams->layer - 1);
  print_line(text);
}

}  // namespace nibblecast
