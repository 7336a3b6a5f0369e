#include "ops/second_moments.h"

#include <algorithm>

#include "base/parallel.h"
#include "ops/per_isa.h"

namespace nibblecast {
namespace {

constexpr size_t kTaskChannels = 256;

template <class T>
[[gnu::always_inline]] inline void add_squares(const T* x, size_t rows, size_t stride, size_t count,
                                               double* sums) {
  for (size_t row = 0; row < rows; ++row) {
    const T* const own = x + row * stride;
    for (size_t i = 0; i < count; ++i) {
      const double value = to_float(own[i]);
      sums[i] += value * value;
    }
  }
}

}  // namespace

template <class T>
void SecondMoments::add(const T* x, size_t rows, size_t width, size_t first) {
  sums_.resize(std::max(sums_.size(), first + width));
  if (first == 0) tokens_ += rows;
  parallel_for((width + kTaskChannels - 1) / kTaskChannels, [&](size_t task) {
    const size_t begin = task * kTaskChannels, count = std::min(kTaskChannels, width - begin);
    per_isa<add_squares<T>>(x + begin, rows, width, count, sums_.data() + first + begin);
  });
}

std::vector<float> SecondMoments::means() const {
  std::vector<float> means(sums_.size());
  for (size_t i = 0; i < means.size() && tokens_ > 0; ++i)
    means[i] = static_cast<float>(sums_[i] / static_cast<double>(tokens_));
  return means;
}

template void SecondMoments::add(const float*, size_t, size_t, size_t);
template void SecondMoments::add(const bf16*, size_t, size_t, size_t);

}  // namespace nibblecast
