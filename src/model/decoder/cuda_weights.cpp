#include "model/decoder/cuda_weights.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>

#include "formats/stored_linear_cuda.h"
#include "model/decoder/weights.h"

namespace nibblecast {
namespace {

constexpr size_t kProductAlignment = 16;  // of weights (ops/matmul_cuda.h)

// What products read: names of the values and the scales of the table's linears.
std::unordered_set<std::string> product_parts(const LayerTable& table, std::span<const Tensor> tensors,
                                              const TileSize& tiles) {
  std::unordered_map<std::string_view, const Tensor*> by_name;
  for (const Tensor& tensor : tensors) by_name[tensor.name] = &tensor;
  const FindTensor find = [&](const std::string& name) -> const Tensor* {
    const auto found = by_name.find(name);
    return found == by_name.end() ? nullptr : found->second;
  };
  const LocateTensor where = [](const Tensor& tensor) { return Where{.tensor = tensor.name}; };
  std::unordered_set<std::string> names;
  for (const WeightModule& module : table.modules) {
    if (module.streams() || is_vector(module)) continue;
    const std::optional<LinearParts> parts = find_linear(module.name, tiles, find, where);
    if (!parts) continue;  // whoever needs it says that it is missing
    names.insert(parts->weight->name);
    if (parts->scale != nullptr) names.insert(parts->scale->name);
  }
  return names;
}

}  // namespace

template <class T>
CudaDenseWeights<T>::CudaDenseWeights(const CudaLayerBytes& bytes, CudaStream& copying, CudaStream& computing,
                                      CudaProfile& profile)
    : copying_(copying),
      computing_(computing),
      profile_(profile),
      stored_(bytes.stored),
      vectors_(bytes.vectors),
      weights_(bytes.weights) {
  for (Staging& staging : staging_) staging.block = pinned_buffer(bytes.vectors);
}

// The block grows where tensors are wider than BF16.
template <class T>
void CudaDenseWeights<T>::expect(DenseTensors& dense, const LayerTable& table,
                                 std::span<const Tensor> tensors, const TileSize& tiles) {
  copying_.wait(used_);
  const std::unordered_set<std::string> parts = product_parts(table, tensors, tiles);
  const auto on_device = [&](const Tensor& tensor) { return parts.contains(tensor.name); };
  Arena counting;
  dense.expect(tensors, counting, on_device);
  if (counting.size_bytes() > stored_.size()) {
    stored_ = DeviceBuffer();  // first, so that only one of them exists
    stored_ = DeviceBuffer(counting.size_bytes());
  }
  Arena arena(stored_.data());
  dense.expect(tensors, arena, on_device);
}

template <class T>
void CudaDenseWeights<T>::begin() {
  copied_.record(copying_);
  computing_.wait(copied_);
  turn_ ^= 1;
  staging_[turn_].sent.synchronize();
  host_arena_ = Arena(staging_[turn_].block.data());
  vector_arena_ = Arena(vectors_.data());
  weight_arena_ = Arena(weights_.data());
}

template <class T>
void CudaDenseWeights<T>::end() {
  staging_[turn_].sent.record(computing_);
  used_.record(computing_);
}

template <class T>
CudaMatrix<T> CudaDenseWeights<T>::matrix(const StoredLinear& stored, T* to) {
  const size_t rows = rows_of(stored), cols = cols_of(stored);
  if constexpr (std::is_same_v<T, bf16>) {
    const auto* const view = std::get_if<Bf16View>(&stored);
    if (view != nullptr && reinterpret_cast<uintptr_t>(view->values) % kProductAlignment == 0)
      return {static_cast<const bf16*>(view->values), rows, cols};
  }
  if (to == nullptr) to = weight_arena_.template take<T>(rows * cols);
  profile_.part(CudaProfile::kDequantize, computing_,
                [&] { dequantize_rows_cuda(computing_, stored, 0, rows, to, cols); });
  return {to, rows, cols};
}

template <class T>
const float* CudaDenseWeights<T>::vector(const std::vector<float>& values) {
  float* const host = host_arena_.template take<float>(values.size());
  float* const to = vector_arena_.template take<float>(values.size());
  std::ranges::copy(values, host);
  copy_async(computing_, to, host, values.size() * sizeof(float));
  return to;
}

template class CudaDenseWeights<float>;
template class CudaDenseWeights<bf16>;

}  // namespace nibblecast
