#include "ops/error_sums.h"

#include "base/parallel.h"
#include "formats/bf16.h"

namespace nibblecast {
namespace {

constexpr size_t kLanes = 8;

void add(double x, double y, ErrorSums& sums) {
  sums.a2 += x * x;
  sums.b2 += y * y;
  sums.ab += x * y;
  sums.d2 += (x - y) * (x - y);
}

// In lanes, which a compiler makes a vector of, joined in their order.
template <class T>
ErrorSums errors_of(const T* a, const T* b, size_t width) {
  ErrorSums lanes[kLanes];
  size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane)
      add(double{to_float(a[i + lane])}, double{to_float(b[i + lane])}, lanes[lane]);
  }
  for (; i < width; ++i) add(double{to_float(a[i])}, double{to_float(b[i])}, lanes[0]);
  return sum_of(lanes);
}

}  // namespace

template <class T>
void token_errors(const T* a, const T* b, size_t tokens, size_t width, ErrorSums* sums) {
  parallel_for(tokens,
               [&](size_t token) { sums[token] = errors_of(a + token * width, b + token * width, width); });
}

template void token_errors(const float*, const float*, size_t, size_t, ErrorSums*);
template void token_errors(const bf16*, const bf16*, size_t, size_t, ErrorSums*);

}  // namespace nibblecast
