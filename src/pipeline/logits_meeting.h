// pipeline/logits_meeting.h - the source's logits held against every candidate's.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "model/logits.h"
#include "pipeline/meeting_place.h"

namespace nibblecast {

// The source's logits wait until every candidate was held against them: those of the rows of the vocabulary
// that are worked on, of all tokens.
class LogitsMeeting {
 public:
  LogitsMeeting(MeetingPlace& place, size_t tokens, size_t candidates);

  LogitsSink source() {
    return [this](const LogitsBlock& block) { keep(block); };
  }
  LogitsSink candidate(size_t index) {
    return [this, index](const LogitsBlock& block) { meet(block, index); };
  }
  // The source's go on to other rows of the vocabulary.
  void clear() { kept_.clear(); }
  // Of all tokens.
  std::vector<LogitsDivergence> states(size_t candidate) const;

 private:
  void keep(const LogitsBlock& block);
  void meet(const LogitsBlock& block, size_t candidate);

  MeetingPlace& place_;
  const size_t tokens_;
  std::shared_ptr<std::byte> values_;  // [tokens, kHeadRows], a block's without gaps
  std::map<size_t, uint64_t> kept_;    // first token of a block -> its first row of the vocabulary
  std::vector<std::shared_ptr<std::byte>> states_;  // LogitsDivergence [tokens] of each candidate
};

}  // namespace nibblecast
