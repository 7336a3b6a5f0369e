// pipeline/compare.h - two checkpoints held against each other, weight by weight: no forward pass, any
// formats.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "pipeline/io_threads.h"

namespace nibblecast {

// Values b held against values a. Sums in double, in the order of the rows.
struct ValueErrors {
  double signal = 0, noise = 0;  // sums of a^2 and (a - b)^2
  double max_abs = 0;            // of |a - b|
  double max_rel = 0;            // of |a - b| / |a|, over a that are not 0
  // b has the numbers of a: 0 and -0 are one, and so are NaN and NaN. Where only one of a and b is no finite
  // number, or they are different ones, noise and both maxima are NaN.
  bool equal = true;

  void merge(const ValueErrors& other);
  // 10 log10(signal / noise): +infinity where values are equal, NaN where the noise is.
  double snr_db() const;
};
ValueErrors value_errors(const float* a, const float* b, size_t count);

// A weight with its scales, under its module's name; or a tensor that is no weight, under its own. Of one
// that has no values to be compared (integers, F16, a scalar of another dtype than F32 or BF16) snr_db is
// -infinity where its bytes differ, and both maxima are NaN.
struct ModuleDifference {
  std::string name = {};
  std::string format_a = {}, format_b = {};  // "NVFP4", "BF16", "FP8 blocks"; a dtype of what is no weight
  bool equal_values = true;
  double snr_db = std::numeric_limits<double>::infinity(), max_abs = 0, max_rel = 0;
};

// Modules of one kind: their names with every number a star.
struct KindDifference {
  std::string kind = {}, format_a = {}, format_b = {};
  uint64_t equal_bytes = 0, equal_values = 0, different = 0;
  ValueErrors errors = {};  // of all that have values
  double least_snr_db = std::numeric_limits<double>::infinity();
};

struct CompareReport {
  uint64_t equal_bytes = 0, equal_values = 0, different = 0;  // modules; each counts once
  std::vector<std::string> only_in_a = {}, only_in_b = {};    // in the order of their checkpoint
  std::vector<ModuleDifference> modules = {};                 // without those of equal bytes; worst first
  std::vector<KindDifference> kinds = {};                     // by name
  uint64_t read_bytes = 0;
};

struct CompareOptions {
  uint64_t memory_bytes = 256 << 20;  // of what is read ahead
  size_t read_threads = kIoThreads;
  std::function<void(uint64_t done, uint64_t bytes)> progress = {};  // may throw, which ends it
};

// Experts that one has stacked (`experts.gate_up_proj`, `experts.down_proj`) and the other one by one are held
// against each other one by one. Every byte that both have is read once, in A's order. Errors: a format that is not read, a shape that
// differs, nothing that both have (kBadInput), as find_linear() and the reader.
CompareReport compare(const Checkpoint& a, const Checkpoint& b, const CompareOptions& options);

}  // namespace nibblecast
