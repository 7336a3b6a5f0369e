#include "checkpoint/parameters.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace nibblecast {
namespace {

bool is_scale(std::string_view name) {
  static constexpr std::array<std::string_view, 6> kEndings = {
      ".scale",       ".weight_scale",        ".weight_scale_2",
      ".input_scale", ".weight_global_scale", ".input_global_scale"};
  return std::ranges::any_of(kEndings, [&](std::string_view ending) { return name.ends_with(ending); });
}

}  // namespace

uint64_t parameter_count(std::span<const Tensor> tensors) {
  uint64_t count = 0;
  for (const Tensor& tensor : tensors) {
    if (is_scale(tensor.name) || tensor.dtype == Dtype::kI64 || tensor.dtype == Dtype::kI32) continue;
    const bool is_packed = (tensor.dtype == Dtype::kI8 || tensor.dtype == Dtype::kU8) &&
                           (tensor.name.ends_with(".weight") || tensor.name.ends_with(".weight_packed"));
    count += element_count(tensor.shape).value_or(0) * (is_packed ? 2 : 1);
  }
  return count;
}

}  // namespace nibblecast
