#include "pipeline/logits_meeting.h"

#include <fmt/format.h>

#include "base/error.h"

namespace nibblecast {

LogitsMeeting::LogitsMeeting(MeetingPlace& place, size_t tokens, size_t candidates)
    : place_(place), tokens_(tokens) {
  if (candidates == 0) return;
  values_ = place.allocate(tokens * kHeadRows * sizeof(float));
  const std::vector<LogitsDivergence> begin(tokens);
  for (size_t index = 0; index < candidates; ++index) {
    states_.push_back(place.allocate(tokens * sizeof(LogitsDivergence)));
    place.write(states_.back().get(), std::as_bytes(std::span(begin)));
  }
}

void LogitsMeeting::keep(const LogitsBlock& block) {
  kept_[block.token] = block.first;
  const size_t row_bytes = block.count * sizeof(float);
  place_.keep(block.values, block.stride * sizeof(float), row_bytes, block.tokens, block.queue,
              values_.get() + block.token * kHeadRows * sizeof(float));
}

void LogitsMeeting::meet(const LogitsBlock& block, size_t candidate) {
  const auto kept = kept_.find(block.token);
  if (kept == kept_.end() || kept->second != block.first) {
    throw Error(ErrorKind::kInternal, {},
                fmt::format("logits of token {}, row {} of the vocabulary come before the source's",
                            block.token, block.first));
  }
  place_.add_logits(reinterpret_cast<const float*>(values_.get()) + block.token * kHeadRows, block,
                    reinterpret_cast<LogitsDivergence*>(states_[candidate].get()) + block.token);
}

std::vector<LogitsDivergence> LogitsMeeting::states(size_t candidate) const {
  std::vector<LogitsDivergence> states(tokens_);
  place_.read(std::as_writable_bytes(std::span(states)), states_[candidate].get());
  return states;
}

}  // namespace nibblecast
