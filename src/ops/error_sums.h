// ops/error_sums.h - how far values b are from values a, token by token.
//
// Sums are in double. Their order depends on `width` and on nothing else, so that a token's are the same
// however tokens are cut into calls. A NaN among the values is one in the sums.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>

namespace nibblecast {

struct ErrorSums {
  double a2 = 0, b2 = 0, ab = 0, d2 = 0;  // of a^2, b^2, a b, (a - b)^2

  void merge(const ErrorSums& other) { a2 += other.a2, b2 += other.b2, ab += other.ab, d2 += other.d2; }
  double error() const { return d2 == 0 ? 0 : std::sqrt(d2 / a2); }  // ||a - b|| / ||a||
  double cosine() const { return d2 == 0 ? 1 : ab / std::sqrt(a2 * b2); }
};

// a, b [tokens, width], T: float or bf16; sums [tokens].
template <class T>
void token_errors(const T* a, const T* b, size_t tokens, size_t width, ErrorSums* sums);

// Of all tokens, one after the other.
inline ErrorSums sum_of(std::span<const ErrorSums> tokens) {
  ErrorSums all;
  for (const ErrorSums& token : tokens) all.merge(token);
  return all;
}

}  // namespace nibblecast
