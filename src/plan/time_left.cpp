#include "plan/time_left.h"

#include <algorithm>

namespace nibblecast {
namespace {

constexpr double kLeastKnown = 0.5;
constexpr double kUsualBytesPerSecond = 1e9;
// A rate of other work than what is left counts from here on.
constexpr double kEnoughBytes = 64 << 20;
// As much of a kind as its prior weighs: it speaks while next to nothing is done, and is soon outvoted.
constexpr double kPriorShare = 0.002;

constexpr size_t kStreamingIndex = static_cast<size_t>(WorkKind::kStreaming);
constexpr size_t kAttentionIndex = static_cast<size_t>(WorkKind::kAttention);

// Of one resource: how much of it is done and left, in what time, and what one unit should take.
double seconds_of(double done, double left, double seconds, double prior_seconds_each) {
  if (!(left > 0)) return 0;
  if (!(done > 0)) return left * prior_seconds_each;
  const double weight = kPriorShare * (done + left);
  return left * (seconds + weight * prior_seconds_each) / (done + weight);
}

struct Priors {
  double read, write, flop;  // seconds each
};

Priors priors_of(const WorkLog& log, const ProbedRates& probed) {
  const WorkAmount& streamed = log.done[kStreamingIndex];
  const WorkAmount& attended = log.done[kAttentionIndex];
  const DiskRates disk = probed.disk.value_or(DiskRates{kUsualBytesPerSecond, kUsualBytesPerSecond});
  const double flops = probed.compute.flops_per_second;
  Priors priors{.read = 1 / disk.read_bytes_per_second,
                .write = 1 / disk.write_bytes_per_second,
                .flop = flops > 0 ? 1 / flops : 0};
  if (streamed.read_bytes > kEnoughBytes) priors.read = log.seconds[kStreamingIndex] / streamed.read_bytes;
  if (streamed.written_bytes > kEnoughBytes)
    priors.write = log.seconds[kStreamingIndex] / streamed.written_bytes;
  if (attended.flops > 0) priors.flop = log.seconds[kAttentionIndex] / attended.flops;
  return priors;
}

// Arithmetic is left of a kind that has done none.
bool is_unknown_arithmetic(const WorkLog& log) {
  for (size_t kind = 0; kind < kWorkKinds; ++kind)
    if (log.left[kind].flops > 0 && !(log.done[kind].flops > 0)) return true;
  return false;
}

}  // namespace

WorkAmount& WorkAmount::operator+=(const WorkAmount& other) {
  read_bytes += other.read_bytes, written_bytes += other.written_bytes, flops += other.flops;
  return *this;
}

WorkAmount& WorkAmount::operator-=(const WorkAmount& other) {
  read_bytes = std::max(0.0, read_bytes - other.read_bytes);
  written_bytes = std::max(0.0, written_bytes - other.written_bytes);
  flops = std::max(0.0, flops - other.flops);
  return *this;
}

std::optional<double> seconds_left(const WorkLog& log, const ProbedRates& probed) {
  if (log.all_seconds() < kLeastKnown) return std::nullopt;
  const Priors priors = priors_of(log, probed);
  double seconds = 0;
  if (!(priors.flop > 0) && is_unknown_arithmetic(log)) return std::nullopt;
  for (size_t kind = 0; kind < kWorkKinds; ++kind) {
    const WorkAmount &done = log.done[kind], &left = log.left[kind];
    const double took = log.seconds[kind];
    seconds += std::max({seconds_of(done.read_bytes, left.read_bytes, took, priors.read),
                         seconds_of(done.written_bytes, left.written_bytes, took, priors.write),
                         seconds_of(done.flops, left.flops, took, priors.flop)});
  }
  return seconds;
}

}  // namespace nibblecast
