#include "plan/engines/breach_list.h"

#include <fmt/format.h>

#include <algorithm>

#include "checkpoint/printable.h"

namespace nibblecast {

std::string found_text(const Json& found) { return found.is_null() ? "nothing" : printable(found.dump()); }

void BreachList::add(std::span<const Engine> engines, const std::string& module, const std::string& fault) {
  const auto known = std::ranges::find_if(faults_, [&](const Fault& each) {
    return each.text == fault && std::ranges::equal(each.engines, engines);
  });
  if (known != faults_.end()) {
    ++known->more;
    return;
  }
  faults_.push_back({{engines.begin(), engines.end()}, module, fault});
}

std::vector<Breach> BreachList::take() && {
  std::vector<Breach> breaches;
  for (const Fault& fault : faults_) {
    const std::string more = fault.more == 0 ? "" : fmt::format(" and {} more", fault.more);
    const std::string rule = fault.module.empty()
                                 ? fault.text
                                 : fmt::format("{}{}: {}", printable(fault.module), more, fault.text);
    for (const Engine engine : fault.engines) breaches.push_back({engine, rule, ""});
  }
  return breaches;
}

}  // namespace nibblecast
