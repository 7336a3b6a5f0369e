// pipeline/verify_blocks.h - one projection of an expert, MXFP4 source against NVFP4 output, by the plain
// definitions.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include "formats/mxfp4_to_nvfp4.h"

namespace nibblecast {

enum class BlockFault {
  kSourceScaleNan,  // E8M0 byte 255 in the source
  kScaleNan,        // E4M3 byte 0x7f or 0xff
  kScaleNegative,
  kScale,        // not the one that the cast's rule gives
  kValue,        // in the window, right scale, and yet another value than the source's
  kZeroSign,     // the sign of a zero is not what the policy says
  kRequantized,  // outside the window, and not what the rule makes of it
};
inline constexpr size_t kBlockFaults = 7;

// Blocks with one fault; the place of the first one's first wrong element.
struct FaultCount {
  uint64_t blocks = 0;
  uint64_t row = 0, col = 0;
  float expected = 0, found = 0;  // scales, or values
};

struct BlockCounts {
  uint64_t blocks = 0;       // of 32 elements
  uint64_t identical = 0;    // same values in source and output
  uint64_t requantized = 0;  // outside the window
  uint64_t zeroed = 0;       // of those: all values of the output are 0, not all of the source
  // Of zeros with a sign in the source, inside the window.
  uint64_t signs_kept = 0, signs_cleared = 0;
  // Over the requantized blocks: sums of squares of errors and of the source's values, largest |error|.
  double error_squared = 0, value_squared = 0, largest_error = 0;
  std::array<FaultCount, kBlockFaults> faults = {};

  const FaultCount& operator[](BlockFault fault) const { return faults[static_cast<size_t>(fault)]; }
  // `later` is of later rows.
  void merge(const BlockCounts& later);
};

struct CastPair {
  Mxfp4View source;
  const uint8_t* codes = nullptr;             // [rows, cols / 2]
  const uint8_t* block_scales = nullptr;      // [rows, cols / 16]
  float scale_2 = 1;                          // as found in the output
  int k_max = 0;                              // of the source's group
  std::optional<NegativeZero> negative_zero;  // nullopt: either
};

class BlockChecker {
 public:
  explicit BlockChecker(const CastPair& pair);
  // A block has at most one fault. Safe from several threads.
  BlockCounts check(uint64_t row, uint64_t count) const;

 private:
  struct Tables;
  class Rows;

  CastPair pair_;
  std::shared_ptr<const Tables> tables_;
};

}  // namespace nibblecast
