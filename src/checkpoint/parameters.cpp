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

// Values in an element of a tensor.
uint64_t values_in_element(const Tensor& tensor) {
  const bool is_packed = tensor.name.ends_with(".weight_packed");
  if (tensor.dtype == Dtype::kI32) return is_packed ? 8 : 0;
  if (tensor.dtype == Dtype::kI64) return 0;
  const bool is_byte = tensor.dtype == Dtype::kI8 || tensor.dtype == Dtype::kU8;
  return is_byte && (is_packed || tensor.name.ends_with(".weight")) ? 2 : 1;
}

}  // namespace

uint64_t parameter_count(std::span<const Tensor> tensors) {
  uint64_t count = 0;
  for (const Tensor& tensor : tensors)
    if (!is_scale(tensor.name)) count += element_count(tensor.shape).value_or(0) * values_in_element(tensor);
  return count;
}

}  // namespace nibblecast
