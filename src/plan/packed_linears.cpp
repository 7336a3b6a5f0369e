#include "plan/packed_linears.h"

#include <fmt/format.h>

#include <optional>

#include "base/error.h"
#include "base/integers.h"
#include "checkpoint/printable.h"
#include "checkpoint/quantization.h"

namespace nibblecast {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr uint64_t kMostTile = 1 << 20;

bool is_packed(Dtype dtype) {
  return dtype == Dtype::kF8E4M3 || dtype == Dtype::kF8E8M0 || dtype == Dtype::kI8 || dtype == Dtype::kU8;
}

bool holds_one(const Tensor& tensor) { return tensor.size_bytes == dtype_bytes(tensor.dtype); }

TileSize parse_tiles(const Json& size, const std::string& file, const std::string& section) {
  const auto side = [&](size_t axis) -> uint64_t {
    if (!size.is_array() || size.size() != 2) return 0;
    const Json& value = size.at(axis);
    return value.is_number_unsigned() && value.get<uint64_t>() <= kMostTile ? value.get<uint64_t>() : 0;
  };
  const TileSize tiles{.rows = side(0), .cols = side(1)};
  if (tiles.rows > 0 && tiles.cols > 0) return tiles;
  throw Error(ErrorKind::kBadInput, {.file = file},
              fmt::format("'{}.weight_block_size' is no tile size", printable(section)),
              {.expected = fmt::format("two integers from 1 to {}", kMostTile),
               .found = size.dump(-1, ' ', true, Json::error_handler_t::replace)});
}

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
    if (found == nullptr) refuse_without_scale(weight, name);
    bool dtype_fits = false;
    for (const Dtype dtype : dtypes) dtype_fits |= found->dtype == dtype;
    if (dtype_fits && (shape.empty() ? holds_one(*found) : found->shape == shape)) return take(*found);
    if (const char* layout = other_layout(weight, *found)) {
      throw Error(
          ErrorKind::kUnsupported, source_.where(*found), fmt::format("holds {}, which is not read", layout),
          {.expected = shape.empty() ? "one value" : shape_text(shape),
           .found = fmt::format("{} {}", dtype_name(found->dtype), shape_text(found->shape)),
           .hint = fmt::format("the weight is {} {}", dtype_name(weight.dtype), shape_text(weight.shape))});
    }
    std::string expected;
    for (const Dtype dtype : dtypes)
      expected += std::string(expected.empty() ? "" : " or ") + std::string(dtype_name(dtype));
    throw Error(ErrorKind::kBadInput, source_.where(*found), "does not fit its weight",
                {.expected = expected + " " + (shape.empty() ? "of one value" : shape_text(shape)),
                 .found = fmt::format("{} {}", dtype_name(found->dtype), shape_text(found->shape)),
                 .hint = fmt::format("the weight is {}", shape_text(weight.shape))});
  }

  // Names what is there instead.
  [[noreturn]] void refuse_without_scale(const Tensor& weight, const std::string& name) const {
    const std::string module = weight.name.substr(0, weight.name.size() - kWeight.size() + 1);
    std::string others;
    for (const Tensor& tensor : source_.tensors()) {
      if (&tensor == &weight || !tensor.name.starts_with(module)) continue;
      others += (others.empty() ? "" : ", ") + printable(tensor.name) + " (" +
                std::string(dtype_name(tensor.dtype)) + ")";
    }
    throw Error(others.empty() ? ErrorKind::kBadInput : ErrorKind::kUnsupported, source_.where(weight),
                fmt::format("is {}, and its scale is missing", dtype_name(weight.dtype)),
                {.expected = "a tensor '" + name + "'", .found = others});
  }

  // Of scales that others write; nullptr for what fits no layout that is known.
  static const char* other_layout(const Tensor& weight, const Tensor& scale) {
    const uint64_t rows = weight.shape[0], cols = weight.shape[1];
    const bool is_power = scale.dtype == Dtype::kU8 || scale.dtype == Dtype::kF8E8M0;
    if (is_power && (scale.shape == Shape{rows, cols / 32} || scale.shape == Shape{rows, cols / 16}))
      return "a power of two for 32 values of a row (MXFP8, or MXFP4 under other names)";
    if (scale.name.ends_with(".scale")) return nullptr;
    if (rows > 1 && (scale.shape == Shape{rows} || scale.shape == Shape{rows, 1}))
      return "one scale a row (per channel)";
    const auto tiles = [](uint64_t size) { return (size + 127) / 128; };
    const Shape blocks = {tiles(rows), tiles(cols)}, wide_blocks = {tiles(rows), 1, tiles(cols), 1};
    return scale.shape == blocks || scale.shape == wide_blocks
               ? "a scale for each 128 x 128 block under the name of one for the whole weight"
               : nullptr;
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
  const std::string file = (source.folder() / "config.json").string();
  std::optional<TileSize> found;
  for (const QuantizationSection& section : quantization_sections(source.config())) {
    const auto size =
        section.value->is_object() ? section.value->find("weight_block_size") : section.value->end();
    if (size == section.value->end() || size->is_null()) continue;
    const TileSize tiles = parse_tiles(*size, file, section.name);
    if (found && (found->rows != tiles.rows || found->cols != tiles.cols)) {
      throw Error(ErrorKind::kUnsupported, {.file = file},
                  "has several sections with other values of weight_block_size",
                  {.expected = fmt::format("{} x {} everywhere", found->rows, found->cols),
                   .found = fmt::format("{} x {} in {}", tiles.rows, tiles.cols, printable(section.name))});
    }
    found = tiles;
  }
  return found.value_or(TileSize{});
}

std::vector<PackedLinear> find_packed_linears(const Checkpoint& source) {
  refuse_foreign_format(source);
  return Search(source).find();
}

}  // namespace nibblecast
