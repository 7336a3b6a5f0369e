#include "pipeline/stream_errors.h"

#include <algorithm>

#include "base/parallel.h"
#include "formats/bf16.h"

namespace nibblecast {
namespace {

constexpr size_t kStreamBytes = 4 << 20;  // of streams that are there at once
constexpr size_t kErrorTask = 16 << 10;

template <class T>
ErrorSums sums_of(const T* a, const T* b, size_t count) {
  ErrorSums sums;
  for (size_t i = 0; i < count; ++i) {
    const double x = to_float(a[i]), y = to_float(b[i]);
    sums.a2 += x * x;
    sums.b2 += y * y;
    sums.ab += x * y;
    sums.d2 += (x - y) * (x - y);
  }
  return sums;
}

// In tasks of fixed size, joined in their order.
template <class T>
ErrorSums all_sums(const T* a, const T* b, size_t count) {
  std::vector<ErrorSums> found((count + kErrorTask - 1) / kErrorTask);
  parallel_for(found.size(), [&](size_t task) {
    const size_t begin = task * kErrorTask;
    found[task] = sums_of(a + begin, b + begin, std::min(kErrorTask, count - begin));
  });
  ErrorSums all;
  for (const ErrorSums& sums : found) all.merge(sums);
  return all;
}

template <class T>
ErrorSums sums_of_streams(const ForwardPass& a, const ForwardPass& b) {
  const uint64_t size = a.streams_bytes();
  std::vector<T> values_a(std::min<uint64_t>(kStreamBytes, size) / sizeof(T)), values_b(values_a.size());
  ErrorSums all;
  for (uint64_t begin = 0; begin < size; begin += kStreamBytes) {
    const size_t bytes = static_cast<size_t>(std::min<uint64_t>(kStreamBytes, size - begin));
    a.get_streams(begin, std::as_writable_bytes(std::span(values_a)).first(bytes));
    b.get_streams(begin, std::as_writable_bytes(std::span(values_b)).first(bytes));
    all.merge(all_sums(values_a.data(), values_b.data(), bytes / sizeof(T)));
  }
  return all;
}

}  // namespace

ErrorSums error_sums(std::span<const float> a, std::span<const float> b) {
  return all_sums(a.data(), b.data(), a.size());
}

ErrorSums stream_errors(const ForwardPass& a, const ForwardPass& b, ComputeDtype dtype) {
  return dtype == ComputeDtype::kBF16 ? sums_of_streams<bf16>(a, b) : sums_of_streams<float>(a, b);
}

LayerWatch LayerParts::of_source() {
  return {.part =
              [this](LayerPart part, size_t first, size_t count, size_t width, const float* values) {
                SourceHalf& own = source_[static_cast<size_t>(part)];
                own.values.resize(tokens_ * width);
                std::copy_n(values, count * width,
                            own.values.begin() + static_cast<ptrdiff_t>(first * width));
                own.shown = true;
              },
          .routing =
              [this](std::span<const int32_t> experts) { experts_.assign(experts.begin(), experts.end()); }};
}

LayerWatch LayerParts::of_candidate(size_t index) {
  return {.part =
              [this, index](LayerPart part, size_t first, size_t count, size_t width, const float* values) {
                const SourceHalf& source = source_[static_cast<size_t>(part)];
                if (!source.shown || source.values.size() != tokens_ * width) return;
                std::optional<ErrorSums>& sums = candidates_[index].halves[static_cast<size_t>(part)];
                if (!sums) sums.emplace();
                sums->merge(error_sums({source.values.data() + first * width, count * width},
                                       {values, count * width}));
              },
          .routing =
              [this, index](std::span<const int32_t> experts) {
                candidates_[index].moved = moved_routing(experts);
              }};
}

void LayerParts::begin_layer() {
  for (SourceHalf& own : source_) own.shown = false;
  experts_.clear();
  for (Candidate& candidate : candidates_) candidate = {};
}

std::optional<double> LayerParts::error_of(size_t index, LayerPart part) const {
  const std::optional<ErrorSums>& sums = candidates_[index].halves[static_cast<size_t>(part)];
  if (!sums) return std::nullopt;
  return sums->error();
}

// Sets of experts, token by token: the order of a token's choices means nothing.
std::optional<double> LayerParts::moved_routing(std::span<const int32_t> experts) const {
  if (experts_.empty() || experts.size() != experts_.size()) return std::nullopt;
  const size_t top = experts.size() / tokens_;
  size_t moved = 0;
  for (size_t token = 0; token < tokens_; ++token) {
    const std::span<const int32_t> others = experts.subspan(token * top, top);
    for (size_t slot = 0; slot < top; ++slot)
      moved += std::ranges::find(others, experts_[token * top + slot]) == others.end();
  }
  return static_cast<double>(moved) / static_cast<double>(experts.size());
}

}  // namespace nibblecast
