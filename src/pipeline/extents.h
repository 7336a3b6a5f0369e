// pipeline/extents.h - neighbouring byte ranges of files, taken together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "pipeline/file_range.h"

namespace nibblecast {

// Where one of the ranges lies in the merged ones.
struct Place {
  size_t range = 0;
  uint64_t offset = 0;
};

struct MergedRanges {
  std::vector<FileRange> ranges;  // by file, then begin; no two of them touch
  std::vector<Place> places;      // one for each range given, in its order
};

// `ranges` must not overlap.
MergedRanges merge_ranges(std::span<const FileRange> ranges);

}  // namespace nibblecast
