#include "plan/weight_sample.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "checkpoint/fetch_ahead.h"

namespace nibblecast {
namespace {

constexpr uint64_t kSampledBytes = 16 << 10;

// Official and Hub names: "ffn.experts.17.w1", "mlp.experts.17.gate_proj"; a stack,
// "mlp.experts.gate_up_proj", begins with the first expert.
bool is_sampled(std::string_view name) {
  constexpr std::string_view kExperts = ".experts.";
  const size_t experts = name.find(kExperts);
  if (experts == std::string_view::npos) return true;
  const std::string_view rest = name.substr(experts + kExperts.size());
  return rest.starts_with("0.") || rest.empty() || rest.front() < '0' || rest.front() > '9';
}

// Of vectors all, up to a bound: norms are wanted whole soon after.
std::vector<TensorPart> begins_of(const std::vector<const Tensor*>& sampled) {
  std::vector<TensorPart> begins;
  for (const Tensor* tensor : sampled) {
    const uint64_t wanted = tensor->shape.size() == 1 ? 4 * kSampledBytes : kSampledBytes;
    begins.push_back({tensor, std::min(tensor->size_bytes, wanted)});
  }
  return begins;
}

}  // namespace

std::string weight_sample(const Checkpoint& source) {
  std::vector<const Tensor*> sampled;
  for (const Tensor& tensor : source.tensors()) {
    if (is_sampled(tensor.name)) sampled.push_back(&tensor);
  }
  std::ranges::sort(sampled, {}, &Tensor::name);
  fetch_ahead(source, begins_of(sampled));
  TensorReader reader(source);
  Hash hash;
  std::vector<std::byte> bytes;
  for (const Tensor* tensor : sampled) {
    bytes.resize(std::min(tensor->size_bytes, kSampledBytes));
    reader.read(*tensor, 0, bytes);
    hash.add(tensor->name + "\n");
    hash.add(bytes);
  }
  return hash.hex();
}

}  // namespace nibblecast
