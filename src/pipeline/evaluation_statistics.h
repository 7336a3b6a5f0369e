// pipeline/evaluation_statistics.h - numbers of tokens and rows made into what is reported of them. All in
// double, sums in the order of tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nibblecast {

// A mean over tokens that come in rows: sum of all over number of all, and its standard error. Tokens of a
// row hang together, so rows are what is drawn: with t_r tokens and the sum s_r in row r of R,
//
//   error = sqrt(R / (R - 1) * sum over r of (s_r - t_r * mean)^2) / sum of t_r
//
// NaN: the mean of no tokens, the error of less than two rows.
struct RowMean {
  double mean = 0, error = 0;
};
RowMean row_mean(std::span<const double> sums, std::span<const uint64_t> tokens);

// Of ascending values, `share` in [0, 1]: between two values in proportion, as numpy's default. NaN of none.
double percentile(std::span<const double> ascending, double share);

// What one token says of a candidate against the source.
struct TokenDivergence {
  double kl = 0;             // nats, KL(source || candidate)
  double logprob_delta = 0;  // candidate's minus source's, of the token that came
  bool same_top1 = false, top1_in_top5 = false;
};

struct Divergence {
  double kl_mean = 0, kl_stderr = 0, kl_median = 0, kl_p90 = 0, kl_p99 = 0, kl_p999 = 0, kl_max = 0;
  double top1_agreement = 0, top5_agreement = 0;  // shares
  double logprob_delta_mean = 0, logprob_delta_rms = 0, logprob_delta_p1 = 0, logprob_delta_p99 = 0;
};
// `rows`: of each row its predicted tokens. Where a number is NaN, so is what it goes into.
Divergence divergence_of(std::span<const std::vector<TokenDivergence>> rows);

}  // namespace nibblecast
