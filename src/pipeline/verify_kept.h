// pipeline/verify_kept.h - kept tensors: the output has the source's bytes.
#pragma once

#include <cstdint>
#include <map>

#include "formats/nonfinite.h"
#include "pipeline/differences.h"
#include "pipeline/verify_steps.h"

namespace nibblecast {

class KeptChecker {
 public:
  KeptChecker(const DataCheck& check, ProblemList& problems, VerifyReport& report)
      : check_(check), problems_(problems), report_(report) {}

  // The pieces of a step.
  void compare(const Step& step, const Reader::Loaded& loaded);
  // What was found in all steps: a problem a tensor, a note for NaN and infinity in the source.
  void report();

 private:
  uint64_t source_bytes(uint32_t planned) const;

  const DataCheck& check_;
  ProblemList& problems_;
  VerifyReport& report_;
  Differences changed_;
  std::map<uint32_t, NonFinite> nonfinite_;
};

}  // namespace nibblecast
