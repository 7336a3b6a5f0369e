#include "pipeline/problem_list.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibblecast {

void ProblemList::add(std::string_view kind, std::string line) {
  auto found = std::ranges::find(kinds_, kind, &Kind::name);
  if (found == kinds_.end()) found = kinds_.insert(found, {.name = std::string(kind), .lines = {}});
  if (++found->count <= kLinesPerKind) found->lines.push_back(std::move(line));
}

std::vector<std::string> ProblemList::lines() const {
  std::vector<std::string> all;
  for (const Kind& kind : kinds_) {
    all.insert(all.end(), kind.lines.begin(), kind.lines.end());
    if (kind.count > kLinesPerKind) {
      all.push_back(fmt::format("... and {} more ({})", kind.count - kLinesPerKind, kind.name));
    }
  }
  return all;
}

}  // namespace nibblecast
