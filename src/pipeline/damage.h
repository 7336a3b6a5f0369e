// pipeline/damage.h - what tells a run that the source's weights are not what they were: NaN and infinity
// among the values that it copies, and how badly the model predicts its own calibration rows.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>

#include "checkpoint/checkpoint.h"
#include "formats/nonfinite.h"
#include "model/logits.h"

namespace nibblecast {

// Looks at the bytes of copied tensors as they stream by.
class NonFiniteCount {
 public:
  // `allowed`: they are counted, not refused.
  NonFiniteCount(const Checkpoint& source, bool allowed) : source_(source), allowed_(allowed) {}

  // The next bytes of `tensor`, whole values from byte `begin` on: a tensor's come in order, one tensor after
  // the other. kBadInput after the last one, naming the first place and how many there are.
  void add(const Tensor& tensor, uint64_t begin, std::span<const std::byte> bytes);
  // What an earlier attempt found in a tensor.
  void add_known(const Tensor& tensor, const NonFinite& found);

  NonFinite of(const std::string& tensor) const;
  // Source tensor -> what is in it.
  const std::map<std::string, NonFinite>& found() const { return found_; }

 private:
  const Checkpoint& source_;
  const bool allowed_;
  NonFinite current_;
  std::map<std::string, NonFinite> found_;
};

// kVerifyFailed where the perplexity is above `most` or NaN; kRefused where `most` is set and there is none.
void check_perplexity(const std::optional<Perplexity>& perplexity, std::optional<double> most);

// In an amax file's metadata: of the rows that it was measured on. nullopt: it does not say (kBadInput for
// what is no number).
void add_perplexity(const Perplexity& perplexity, std::map<std::string, std::string>& metadata);
std::optional<Perplexity> find_perplexity(const std::map<std::string, std::string>& metadata);

}  // namespace nibblecast
