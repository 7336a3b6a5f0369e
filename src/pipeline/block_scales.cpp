#include "pipeline/block_scales.h"

#include <array>
#include <bit>
#include <cmath>
#include <string_view>
#include <vector>

#include "checkpoint/tensor_role.h"
#include "formats/nvfp4.h"

namespace nibblecast {
namespace {

constexpr std::string_view kSuffix = ".weight_scale";

// The scale of all blocks of a tensor; in compressed-tensors its reciprocal is stored. 0: there is none.
float tensor_scale(const Checkpoint& checkpoint, const std::string& block_scales, TensorReader& reader) {
  const auto read = [&](const std::string& name) -> float {
    const Tensor* const tensor = checkpoint.find(name);
    if (tensor == nullptr || tensor->dtype != Dtype::kF32 || tensor->size_bytes != sizeof(float)) return 0;
    return std::bit_cast<float>([&] {
      std::array<std::byte, sizeof(float)> bytes = {};
      std::ranges::copy(reader.read(*tensor), bytes.begin());
      return bytes;
    }());
  };
  if (const float scale = read(block_scales + "_2"); scale > 0) return scale;
  const std::string module = block_scales.substr(0, block_scales.size() - kSuffix.size());
  const float reciprocal = read(module + ".weight_global_scale");
  return reciprocal > 0 ? 1 / reciprocal : 0;
}

void count_scales(std::span<const std::byte> codes, float scale, BlockScales& found) {
  std::array<uint64_t, 256> counts = {};
  for (const std::byte code : codes) ++counts[std::to_integer<size_t>(code)];
  for (size_t code = 0; code < counts.size(); ++code) {
    const float value = std::abs(decode_e4m3(static_cast<uint8_t>(code)));
    if (counts[code] == 0 || std::isnan(value)) continue;
    found.read += counts[code];
    if (value == 0) {
      found.zero += counts[code];
      continue;
    }
    found.stored[std::ilogb(value)] += counts[code];
    if (scale > 0 && std::isfinite(scale)) found.exponents[std::ilogb(double{value} * scale)] += counts[code];
  }
}

}  // namespace

std::map<std::string, BlockScales> read_block_scales(const Checkpoint& checkpoint, uint64_t most_bytes) {
  std::vector<const Tensor*> all;
  uint64_t bytes = 0;
  for (const Tensor& tensor : checkpoint.tensors()) {
    if (tensor.dtype != Dtype::kF8E4M3 || !tensor.name.ends_with(kSuffix)) continue;
    all.push_back(&tensor);
    bytes += tensor.size_bytes;
  }
  std::map<std::string, BlockScales> kinds;
  const double share = bytes <= most_bytes ? 1 : static_cast<double>(most_bytes) / static_cast<double>(bytes);
  TensorReader reader(checkpoint);
  for (size_t index = 0; index < all.size(); ++index) {
    const Tensor& tensor = *all[index];
    BlockScales& kind = kinds[std::string(tensor_role(tensor.name))];
    kind.blocks += tensor.size_bytes;
    // Spread evenly, without the rhythm in which tensors of an expert come.
    const auto place = static_cast<uint32_t>(index * 2654435769u);
    if (share < 1 && static_cast<double>(place) >= share * 4294967296.0) continue;
    count_scales(reader.read(tensor), tensor_scale(checkpoint, tensor.name, reader), kind);
  }
  return kinds;
}

}  // namespace nibblecast
