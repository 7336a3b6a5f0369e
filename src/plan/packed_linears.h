// plan/packed_linears.h - the quantized weights of a checkpoint, found by names and dtypes alone: of any
// model, draft layers too.
#pragma once

#include <cstdint>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "plan/linear.h"

namespace nibblecast {

enum class PackedFormat {
  kFp8,    // X.weight F8_E4M3 with X.scale (F8_E8M0 or F32, one a tile), or with X.weight_scale (F32, one)
  kMxfp4,  // X.weight I8 with X.scale (F8_E8M0, one for 32)
  kNvfp4,  // X.weight U8 with X.weight_scale (F8_E4M3, one for 16) and X.weight_scale_2 (F32, one)
};

struct PackedLinear {
  SourceLinear linear;
  PackedFormat format = PackedFormat::kFp8;
  uint32_t input_scale = kNone;  // X.input_scale, where there is one
};

// quantization_config.weight_block_size of a config, wherever it is nested; 128 x 128 where it says nothing.
// Error kUnsupported: sections that differ in it.
struct TileSize {
  uint64_t rows = 128, cols = 128;
};
TileSize tile_size(const Checkpoint& source);

// In the source's order. Every tensor of the dtypes above belongs to one of them, or: Error kBadInput, or
// kUnsupported, naming it. Error kUnsupported: as refuse_foreign_format() (checkpoint/quantization.h), and
// scales that are there under another name or in another shape. Error kBadInput as well: a weight or scale
// whose shape does not fit; a weight_block_size that is no pair of positive integers.
std::vector<PackedLinear> find_packed_linears(const Checkpoint& source);

}  // namespace nibblecast
