// pipeline/verify_linears.h - quantized linears, source against output: those that were cast by their values,
// all others by making them again.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "calibration/amax_file.h"
#include "formats/stored_linear.h"
#include "pipeline/differences.h"
#include "pipeline/verify_blocks.h"
#include "pipeline/verify_steps.h"
#include "plan/second_moments.h"

namespace nibblecast {

inline constexpr uint64_t kCheckedRows = 64;  // of a task of one thread

inline const uint8_t* codes_at(std::span<const std::byte> bytes) {
  return reinterpret_cast<const uint8_t*>(bytes.data());
}

// A linear, or rows of one.
struct LinearPair {
  StoredLinear source;
  std::span<const std::byte> weight, block_scale;  // of the output, if it can be compared
  std::vector<std::byte> turned[3] = {};           // both and the source, of a stack: by rows
};
// Of the step's group, in its order.
std::vector<LinearPair> linears_of(const DataCheck& check, const Step& step, const Reader::Loaded& loaded);

// Block by block: the output has the source's values, but for blocks outside the cast's window.
class CastChecker {
 public:
  CastChecker(const DataCheck& check, ProblemList& problems, VerifyReport& report)
      : check_(check), problems_(problems), report_(report) {}

  void compare(const Step& step, const std::vector<LinearPair>& linears);
  // Either policy of negative zeros is right where none is recorded, but not both in one output.
  void report_mixed_signs();

 private:
  void check_scale_2(const PlannedLinear& linear, const CastPair& pair);
  void report(const PlannedLinear& linear, const BlockCounts& counts);
  void note_requantized(const std::string& weight, const BlockCounts& counts);
  const std::string& name(uint32_t planned) const { return check_.plan.tensors[planned].out.name; }

  const DataCheck& check_;
  ProblemList& problems_;
  VerifyReport& report_;
  std::vector<uint32_t> kept_signs_, cleared_signs_;
};

// To the byte what the plain code makes of the source.
class MadeChecker {
 public:
  // Where the plan needs second moments, they are those of the output's amax file; without it what needs them
  // is left out, and one problem says so.
  MadeChecker(const DataCheck& check, ProblemList& problems, VerifyReport& report);

  void compare(const Step& step, const std::vector<LinearPair>& linears);
  // What was found in all steps, a problem a tensor.
  void report();

 private:
  // What the plain code makes of a step's linears.
  struct Made;
  Made make(const Step& step, const std::vector<LinearPair>& linears);
  bool can_make(const PlannedGroup& group) const;
  void compare_linear(const Step& step, const LinearPair& pair, const Made& made, size_t index);
  void compare_tensor(uint32_t planned, uint64_t begin, std::span<const std::byte> found,
                      std::span<const std::byte> expected);
  void compare_values(const PlannedLinear& linear, const LinearPair& pair, const CastCounts& blocks);
  StoredLinear output_of(const PlannedLinear& linear, const LinearPair& pair) const;
  const std::string& name(uint32_t planned) const { return check_.plan.tensors[planned].out.name; }

  const DataCheck& check_;
  ProblemList& problems_;
  VerifyReport& report_;
  Differences wrong_;
  std::optional<AmaxFile> amax_;
  std::optional<ChannelWeights> channel_weights_;
};

}  // namespace nibblecast
