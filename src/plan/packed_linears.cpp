#include "plan/packed_linears.h"

#include <fmt/format.h>

#include <optional>

#include "base/error.h"
#include "base/integers.h"

namespace nibblecast {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr uint64_t kMostTile = 1 << 20;

bool is_packed(Dtype dtype) {
  return dtype == Dtype::kF8E4M3 || dtype == Dtype::kF8E8M0 || dtype == Dtype::kI8 || dtype == Dtype::kU8;
}

bool holds_one(const Tensor& tensor) { return tensor.size_bytes == dtype_bytes(tensor.dtype); }

class Search {
 public:
  explicit Search(const Checkpoint& source)
      : source_(source), tiles_(tile_size(source)), taken_(source.tensors().size()) {}

  std::vector<PackedLinear> find() {
    for (const Tensor& tensor : source_.tensors()) {
      if (is_packed(tensor.dtype) && tensor.name.ends_with(kWeight)) add(tensor);
    }
    for (uint32_t index = 0; index < taken_.size(); ++index) {
      const Tensor& tensor = source_.tensors()[index];
      if (taken_[index] || !is_packed(tensor.dtype)) continue;
      throw Error(ErrorKind::kUnsupported, source_.where(tensor),
                  fmt::format("is {}, but neither a weight nor its scale", dtype_name(tensor.dtype)),
                  {.hint = "weights are named X.weight, their scales X.scale or X.weight_scale"});
    }
    return std::move(found_);
  }

 private:
  void add(const Tensor& weight) {
    const std::string module = weight.name.substr(0, weight.name.size() - kWeight.size());
    if (weight.shape.size() != 2 || weight.size_bytes == 0) {
      throw Error(
          ErrorKind::kUnsupported, source_.where(weight), "is a quantized weight but no matrix",
          {.found = fmt::format("{} {}", dtype_name(weight.dtype), shape_text(weight.shape)), .hint = {}});
    }
    PackedLinear packed{.linear = {.module = module, .weight = take(weight)}};
    switch (weight.dtype) {
      case Dtype::kF8E4M3:
        add_fp8_scale(weight, packed);
        break;
      case Dtype::kI8:
        packed.format = PackedFormat::kMxfp4;
        packed.linear.scale = scale(weight, ".scale", {Dtype::kF8E8M0}, {rows(weight), cols(weight) / 32});
        require_whole_blocks(weight, 32);
        break;
      case Dtype::kU8:
        packed.format = PackedFormat::kNvfp4;
        packed.linear.scale =
            scale(weight, ".weight_scale", {Dtype::kF8E4M3}, {rows(weight), cols(weight) / 16});
        packed.linear.scale_2 = scale(weight, ".weight_scale_2", {Dtype::kF32}, {});
        require_whole_blocks(weight, 16);
        break;
      default:
        throw Error(ErrorKind::kUnsupported, source_.where(weight), "is stored in a dtype that no weight has",
                    {.found = std::string(dtype_name(weight.dtype))});
    }
    if (const Tensor* input = source_.find(module + ".input_scale")) packed.input_scale = take(*input);
    found_.push_back(std::move(packed));
  }

  void add_fp8_scale(const Tensor& weight, PackedLinear& packed) {
    const bool is_tensor = source_.find(packed.linear.module + ".scale") == nullptr &&
                           source_.find(packed.linear.module + ".weight_scale") != nullptr;
    packed.format = PackedFormat::kFp8;
    packed.linear.scale =
        is_tensor ? scale(weight, ".weight_scale", {Dtype::kF32}, {})
                  : scale(weight, ".scale", {Dtype::kF8E8M0, Dtype::kF32},
                          {ceil_div(weight.shape[0], tiles_.rows), ceil_div(weight.shape[1], tiles_.cols)});
  }

  // The scale named like the weight, of this dtype and shape; an empty shape: one value, however shaped.
  uint32_t scale(const Tensor& weight, const char* suffix, std::vector<Dtype> dtypes, const Shape& shape) {
    const std::string name = weight.name.substr(0, weight.name.size() - kWeight.size()) + suffix;
    const Tensor* found = source_.find(name);
    if (found == nullptr) {
      throw Error(ErrorKind::kBadInput, source_.where(weight),
                  fmt::format("is {}, and its scale is missing", dtype_name(weight.dtype)),
                  {.expected = "a tensor '" + name + "'"});
    }
    bool dtype_fits = false;
    for (const Dtype dtype : dtypes) dtype_fits |= found->dtype == dtype;
    if (dtype_fits && (shape.empty() ? holds_one(*found) : found->shape == shape)) return take(*found);
    std::string expected;
    for (const Dtype dtype : dtypes)
      expected += std::string(expected.empty() ? "" : " or ") + std::string(dtype_name(dtype));
    throw Error(ErrorKind::kBadInput, source_.where(*found), "does not fit its weight",
                {.expected = expected + " " + (shape.empty() ? "of one value" : shape_text(shape)),
                 .found = fmt::format("{} {}", dtype_name(found->dtype), shape_text(found->shape)),
                 .hint = fmt::format("the weight is {}", shape_text(weight.shape))});
  }

  void require_whole_blocks(const Tensor& weight, uint64_t block) const {
    if (cols(weight) % block == 0) return;
    throw Error(ErrorKind::kBadInput, source_.where(weight), "its columns are no whole blocks",
                {.expected = fmt::format("a multiple of {}", block), .found = std::to_string(cols(weight))});
  }

  static uint64_t rows(const Tensor& weight) { return weight.shape[0]; }
  static uint64_t cols(const Tensor& weight) { return weight.shape[1] * 2; }  // two a byte

  uint32_t take(const Tensor& tensor) {
    const auto index = static_cast<uint32_t>(&tensor - source_.tensors().data());
    taken_[index] = true;
    return index;
  }

  const Checkpoint& source_;
  const TileSize tiles_;
  std::vector<bool> taken_;
  std::vector<PackedLinear> found_;
};

}  // namespace

TileSize tile_size(const Checkpoint& source) {
  const Json& config = source.config();
  const auto quantization = config.find("quantization_config");
  if (quantization == config.end() || !quantization->is_object()) return {};
  const auto size = quantization->find("weight_block_size");
  if (size == quantization->end() || size->is_null()) return {};
  const auto side = [&](size_t axis) -> uint64_t {
    if (!size->is_array() || size->size() != 2) return 0;
    const Json& value = size->at(axis);
    return value.is_number_unsigned() && value.get<uint64_t>() <= kMostTile ? value.get<uint64_t>() : 0;
  };
  const TileSize tiles{.rows = side(0), .cols = side(1)};
  if (tiles.rows > 0 && tiles.cols > 0) return tiles;
  throw Error(ErrorKind::kBadInput, {.file = (source.folder() / "config.json").string()},
              "'quantization_config.weight_block_size' is no tile size",
              {.expected = fmt::format("two integers from 1 to {}", kMostTile),
               .found = size->dump(-1, ' ', true, Json::error_handler_t::replace)});
}

std::vector<PackedLinear> find_packed_linears(const Checkpoint& source) { return Search(source).find(); }

}  // namespace nibblecast
