// pipeline/verify_steps.h - in which steps source and output are read and compared: some pieces of kept
// tensors, or linears of a group, or rows of a lone one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "pipeline/extents.h"
#include "pipeline/reader.h"
#include "pipeline/verify_data.h"
#include "plan/linear.h"

namespace nibblecast {

// Bytes [begin, begin + size_bytes) of a kept tensor.
struct KeptPiece {
  uint32_t planned = 0;  // index into Plan::tensors
  uint64_t begin = 0, size_bytes = 0;
};

// Read and compared at once.
struct Step {
  std::vector<KeptPiece> pieces;
  const PlannedGroup* group = nullptr;
  uint64_t first_row = 0, rows = 0;  // of the group's only linear; 0 rows: whole linears
  std::vector<bool> comparable;      // of the group's linears: all of them are there in the output
  ReadUnit reads;
  std::vector<Place>
      places;  // pieces: source, output alternating; group: of each linear what the source has of weight,
               // scale and scale_2; then, of each comparable one, what the
               // output has of weight and block scales
  uint32_t shard = 0;  // of the source
};

// All that the output has, in the order in which the source's shards hold it. Files are the source's shards,
// then the output's.
std::vector<Step> list_steps(const DataCheck& check);

// The rows of the step that tensor `planned` has, as planned.
OutputRange output_part(const Plan& plan, const Step& step, uint32_t planned);

// What was read for a step's place.
std::span<const std::byte> at_place(const Step& step, const Reader::Loaded& loaded, size_t place,
                                    uint64_t size);

}  // namespace nibblecast
