#include "model/stored.h"

#include <array>
#include <cstring>

#include "base/error.h"
#include "ops/weight.h"

namespace nibblecast {
namespace {

[[noreturn]] void refuse_fit(const std::string& name, const std::string& expected, const std::string& found) {
  throw Error(ErrorKind::kBadInput, {.tensor = name}, "does not fit the model's configuration",
              {.expected = expected, .found = found});
}

}  // namespace

StoredLinear StoredReader::linear(const std::string& module, size_t rows, size_t cols) const {
  std::array<Tensor, 8> looked_at;  // as many names as a container has at most
  size_t used = 0;
  const FindTensor find = [&](const std::string& name) -> const Tensor* {
    const auto found = stored_.find(name);
    if (found == stored_.end()) return nullptr;
    for (size_t i = 0; i < used; ++i)
      if (looked_at[i].name == name) return &looked_at[i];
    Tensor& tensor = looked_at.at(used++);
    tensor = {.name = name, .dtype = found->second.dtype, .shape = found->second.shape};
    tensor.size_bytes = found->second.bytes.size();
    return &tensor;
  };
  const LocateTensor where = [](const Tensor& tensor) { return Where{.tensor = tensor.name}; };
  const std::optional<LinearParts> parts = find_linear(module, tiles_, find, where);
  if (!parts) throw Error(ErrorKind::kBadInput, {.tensor = module + ".weight"}, "is missing");
  const LinearFormat& format = parts->format;
  const auto bytes_of = [&](const Tensor* tensor) {
    return tensor == nullptr ? std::span<const std::byte>() : stored_.at(tensor->name).bytes;
  };
  const auto require_bytes = [&](const Tensor* part, uint64_t size) {
    if (part == nullptr || bytes_of(part).size() == size) return;
    refuse_fit(part->name, std::to_string(size) + " bytes",
               std::string(dtype_name(part->dtype)) + " " + shape_text(part->shape) + " in " +
                   std::to_string(bytes_of(part).size()) + " bytes");
  };
  if (format.rows != rows || format.cols != cols)
    refuse_fit(module + ".weight", shape_text({rows, cols}), shape_text(parts->weight->shape));
  require_bytes(parts->weight, format.weight_bytes(0, rows).size);
  require_bytes(parts->scale, format.scale_bytes(0, rows).size);
  if (parts->shape != nullptr)
    check_weight_shape(format, *parts->shape, bytes_of(parts->shape), where(*parts->shape));
  return format.view(rows, bytes_of(parts->weight).data(), bytes_of(parts->scale).data(),
                     bytes_of(parts->scale_2));
}

std::vector<float> StoredReader::floats(const std::string& name, const Shape& shape) const {
  const StoredTensor& tensor = find(name, {Dtype::kF32, Dtype::kBF16, Dtype::kF16}, shape);
  const size_t count = tensor.bytes.size() / dtype_bytes(tensor.dtype);
  std::vector<float> values(count);
  const LinearFormat format{.stored = plain_format(tensor.dtype).value(), .rows = 1, .cols = count};
  read_weight(format.view(1, tensor.bytes.data(), nullptr, {}), 0, 1, values.data());
  return values;
}

std::vector<int64_t> StoredReader::integers(const std::string& name, const Shape& shape) const {
  const StoredTensor& tensor = find(name, {Dtype::kI64, Dtype::kI32}, shape);
  std::vector<int64_t> values(tensor.bytes.size() / dtype_bytes(tensor.dtype));
  if (tensor.dtype == Dtype::kI64) {
    if (!values.empty()) std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    return values;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    int32_t value = 0;
    std::memcpy(&value, tensor.bytes.data() + i * sizeof value, sizeof value);
    values[i] = value;
  }
  return values;
}

const StoredTensor& StoredReader::find(const std::string& name, std::initializer_list<Dtype> dtypes,
                                       const Shape& shape) const {
  const auto found = stored_.find(name);
  if (found == stored_.end()) throw Error(ErrorKind::kBadInput, {.tensor = name}, "is missing");
  const StoredTensor& tensor = found->second;
  bool known = false;
  std::string expected;
  for (const Dtype dtype : dtypes) {
    known = known || tensor.dtype == dtype;
    expected += (expected.empty() ? "" : " or ") + std::string(dtype_name(dtype));
  }
  const bool complete = tensor.bytes.size() == stored_bytes(tensor.dtype, element_count(shape).value_or(0));
  if (!known || tensor.shape != shape || !complete) {
    refuse_fit(name, expected + " " + shape_text(shape),
               std::string(dtype_name(tensor.dtype)) + " " + shape_text(tensor.shape) + " in " +
                   std::to_string(tensor.bytes.size()) + " bytes");
  }
  return tensor;
}

}  // namespace nibblecast
