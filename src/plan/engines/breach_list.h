// plan/engines/breach_list.h - gathers breaches: of one fault in many modules one breach, which names the
// first and how many more.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "plan/engines.h"

namespace nibblecast {

// A value of a document in messages; "nothing" for one that is not there.
std::string found_text(const Json& found);

class BreachList {
 public:
  // `fault` reads on after the module's name: "X.weight: must be U8; found I8". No module: it stands alone.
  void add(std::span<const Engine> engines, const std::string& module, const std::string& fault);

  // In the order of their first faults, an engine after the other.
  std::vector<Breach> take() &&;

 private:
  struct Fault {
    std::vector<Engine> engines;
    std::string module, text;
    size_t more = 0;  // modules beside the first
  };
  std::vector<Fault> faults_;
};

}  // namespace nibblecast
