// plan/time_left.h - how long the rest of a run takes: its work by the cost model, at the speed seen so far.
#pragma once

#include <array>
#include <cstdint>
#include <numeric>
#include <optional>

#include "plan/cost.h"

namespace nibblecast {

// What takes time. It overlaps, so the longest decides.
struct WorkAmount {
  double read_bytes = 0, written_bytes = 0, flops = 0;

  WorkAmount& operator+=(const WorkAmount& other);
  WorkAmount& operator-=(const WorkAmount& other);  // not below 0
};

// The kinds follow each other within a layer, and each has a bottleneck of its own.
enum class WorkKind : uint8_t {
  kStreaming,  // stages without a forward pass
  kAttention,
  kExperts,  // all the rest of a layer with one: its weights come, are computed with, and made anew
  kHead,     // its weights come and are computed with
};
inline constexpr size_t kWorkKinds = 4;

struct WorkLog {
  std::array<WorkAmount, kWorkKinds> done = {}, left = {};
  std::array<double, kWorkKinds> seconds = {};  // that `done` took

  double all_seconds() const { return std::accumulate(seconds.begin(), seconds.end(), 0.0); }
};

// What the probes say; 0 or nothing: not measured.
struct ProbedRates {
  std::optional<DiskRates> disk = {};
  ComputeRates compute = {};
};

// A kind of which something is done goes on as it went: of each resource as many seconds a unit as so far.
// Of a kind that has not begun, the other kinds' rates are taken, or else the probes', or else 1 GB/s.
// nullopt in the first half second, and while nothing is known of how fast it computes.
std::optional<double> seconds_left(const WorkLog& log, const ProbedRates& probed);

}  // namespace nibblecast
