// cli/progress_line.h - one line that says how far a long job is, for a terminal of any width.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>

namespace nibblecast {

struct ProgressLine {
  std::string title;   // "layer 4 of 61"
  std::string detail;  // "attention, row 3 of 8"; may be empty
  double seconds = 0;  // so far
  std::optional<double> seconds_left = {};
  uint64_t bytes_done = 0, bytes = 0;  // bytes 0: unknown
};

// "layer 4 of 61, attention, row 3 of 8: 23 %, 14 min 3 s left, ends at 15:42, 12.1 GiB of 805.3 GiB, 512.3
// MB/s". `now` gives the clock time of the end, where that is at least ten minutes away. Of at most `columns`
// columns (0: any number): what says least goes first - rate, bytes, clock, detail, percent - then the title
// is cut; the time that is left stays.
std::string progress_text(const ProgressLine& line, std::time_t now, size_t columns);

// The same for programs, a JSON object in one line: {"progress":{"title":...}}; docs/json.md has the keys.
std::string progress_json(const ProgressLine& line);

// Columns that a terminal takes for UTF-8 text; a byte that is no part of any takes one.
size_t text_columns(std::string_view text);

}  // namespace nibblecast
