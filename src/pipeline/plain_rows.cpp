#include "pipeline/plain_rows.h"

#include <algorithm>

#include "ops/weight.h"
#include "weights/container.h"

namespace nibblecast {
namespace {

constexpr size_t kPartValues = 64 << 10;  // converted at once

template <class T>
std::shared_ptr<std::vector<T>> values_of(Dtype stored, std::span<const std::byte> bytes) {
  const uint64_t count = bytes.size() / dtype_bytes(stored);
  const LinearFormat format{.stored = plain_format(stored).value(), .rows = 1, .cols = count};
  auto values = std::make_shared<std::vector<T>>(count);
  read_weight(format.view(1, bytes.data(), nullptr, {}), 0, 1, values->data());
  return values;
}

template <class T>
void hand_on(Dtype stored, std::span<const std::byte> bytes, const PlainRows::Sink& sink) {
  const auto values = values_of<T>(stored, bytes);
  sink(std::as_bytes(std::span(*values)), values);
}

}  // namespace

void PlainRows::add(std::span<const std::byte> bytes, const Owner& owner, const Sink& sink) {
  if (stored_ == Dtype::kBF16) return sink(bytes, owner);
  const size_t size = dtype_bytes(stored_);
  if (!cut_.empty()) {
    const size_t missing = std::min(size - cut_.size(), bytes.size());
    cut_.insert(cut_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(missing));
    bytes = bytes.subspan(missing);
    if (cut_.size() < size) return;
    convert(cut_, sink);
    cut_.clear();
  }
  while (bytes.size() >= size) {
    const size_t part = std::min(kPartValues, bytes.size() / size) * size;
    convert(bytes.first(part), sink);
    bytes = bytes.subspan(part);
  }
  cut_.assign(bytes.begin(), bytes.end());
}

void PlainRows::convert(std::span<const std::byte> values, const Sink& sink) const {
  compute_ == ComputeDtype::kBF16 ? hand_on<bf16>(stored_, values, sink)
                                  : hand_on<float>(stored_, values, sink);
}

}  // namespace nibblecast
