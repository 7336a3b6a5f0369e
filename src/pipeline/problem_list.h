// pipeline/problem_list.h - lines of a report, by kind; a kind with very many lines does not drown the
// others.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nibblecast {

class ProblemList {
 public:
  static constexpr size_t kLinesPerKind = 20;

  // `kind` names what the lines are about ("kept tensors"): it stands in the line that counts the rest.
  void add(std::string_view kind, std::string line);
  // By kind in the order of their first line, each kind's lines in the order they came.
  std::vector<std::string> lines() const;

 private:
  struct Kind {
    std::string name;
    std::vector<std::string> lines;
    uint64_t count = 0;
  };
  std::vector<Kind> kinds_;
};

}  // namespace nibblecast
