#include "pipeline/evaluation_statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nibblecast {
namespace {

constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();

// Ascending; one NaN where there is any, so that every percentile is NaN.
std::vector<double> sorted(std::vector<double> values) {
  if (std::ranges::any_of(values, [](double value) { return std::isnan(value); })) return {kUndefined};
  std::ranges::sort(values);
  return values;
}

template <class F>
std::vector<double> all_of(std::span<const std::vector<TokenDivergence>> rows, const F& number) {
  std::vector<double> values;
  for (const std::vector<TokenDivergence>& row : rows)
    for (const TokenDivergence& token : row) values.push_back(number(token));
  return values;
}

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? kUndefined : sum / static_cast<double>(values.size());
}

// Of logits that are no numbers none is the largest.
double agreement(const TokenDivergence& token, bool agrees) {
  if (std::isnan(token.kl)) return kUndefined;
  return agrees ? 1 : 0;
}

void add_kl(std::span<const std::vector<TokenDivergence>> rows, Divergence& divergence) {
  std::vector<double> sums;
  std::vector<uint64_t> tokens;
  for (const std::vector<TokenDivergence>& row : rows) {
    double sum = 0;
    for (const TokenDivergence& token : row) sum += token.kl;
    sums.push_back(sum);
    tokens.push_back(row.size());
  }
  const RowMean mean = row_mean(sums, tokens);
  divergence.kl_mean = mean.mean;
  divergence.kl_stderr = mean.error;
  const std::vector<double> ascending = sorted(all_of(rows, [](const auto& token) { return token.kl; }));
  divergence.kl_median = percentile(ascending, 0.5);
  divergence.kl_p90 = percentile(ascending, 0.9);
  divergence.kl_p99 = percentile(ascending, 0.99);
  divergence.kl_p999 = percentile(ascending, 0.999);
  divergence.kl_max = percentile(ascending, 1);
}

void add_deltas(std::span<const std::vector<TokenDivergence>> rows, Divergence& divergence) {
  const std::vector<double> deltas = all_of(rows, [](const auto& token) { return token.logprob_delta; });
  std::vector<double> squares;
  for (const double delta : deltas) squares.push_back(delta * delta);
  divergence.logprob_delta_mean = mean_of(deltas);
  divergence.logprob_delta_rms = std::sqrt(mean_of(squares));
  const std::vector<double> ascending = sorted(deltas);
  divergence.logprob_delta_p1 = percentile(ascending, 0.01);
  divergence.logprob_delta_p99 = percentile(ascending, 0.99);
}

}  // namespace

RowMean row_mean(std::span<const double> sums, std::span<const uint64_t> tokens) {
  double sum = 0, count = 0, rows = 0, squares = 0;
  for (size_t row = 0; row < sums.size(); ++row) {
    if (tokens[row] == 0) continue;
    sum += sums[row];
    count += static_cast<double>(tokens[row]);
    ++rows;
  }
  const double mean = count > 0 ? sum / count : kUndefined;
  for (size_t row = 0; row < sums.size(); ++row) {
    const double off = sums[row] - static_cast<double>(tokens[row]) * mean;
    squares += off * off;
  }
  return {mean, rows > 1 ? std::sqrt(rows / (rows - 1) * squares) / count : kUndefined};
}

double percentile(std::span<const double> ascending, double share) {
  if (ascending.empty()) return kUndefined;
  const double place = share * static_cast<double>(ascending.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, ascending.size() - 1);
  return ascending[below] + (place - static_cast<double>(below)) * (ascending[above] - ascending[below]);
}

Divergence divergence_of(std::span<const std::vector<TokenDivergence>> rows) {
  Divergence divergence;
  add_kl(rows, divergence);
  divergence.top1_agreement =
      mean_of(all_of(rows, [](const auto& token) { return agreement(token, token.same_top1); }));
  divergence.top5_agreement =
      mean_of(all_of(rows, [](const auto& token) { return agreement(token, token.top1_in_top5); }));
  add_deltas(rows, divergence);
  return divergence;
}

}  // namespace nibblecast
