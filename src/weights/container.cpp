#include "weights/container.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <set>

#include "base/error.h"
#include "base/integers.h"
#include "checkpoint/printable.h"
#include "checkpoint/quantization.h"

namespace nibblecast {
namespace {

constexpr uint64_t kMostTile = 1 << 20;
constexpr const char *kPlainSuffix = ".weight", *kPackedSuffix = ".weight_packed";
constexpr const char* kShapeSuffix = ".weight_shape";
constexpr uint64_t kCodesInWord = 8;  // of int4

// What one scale belongs to.
enum class Blocks : uint8_t { kNone, kTiles, kTiles128, kTensor, kRow, kOf32, kOf16, kGroups };

class Dtypes {
 public:
  constexpr Dtypes(std::initializer_list<Dtype> all) {
    for (const Dtype dtype : all) bits_ |= bit(dtype);
  }
  constexpr bool contains(Dtype dtype) const { return (bits_ & bit(dtype)) != 0; }
  std::string text() const {
    std::string names;
    for (int dtype = 0; dtype <= static_cast<int>(Dtype::kU64); ++dtype) {
      if (!contains(static_cast<Dtype>(dtype))) continue;
      names += std::string(names.empty() ? "" : " or ") + std::string(dtype_name(static_cast<Dtype>(dtype)));
    }
    return names;
  }

 private:
  static constexpr uint32_t bit(Dtype dtype) { return uint32_t{1} << static_cast<int>(dtype); }
  uint32_t bits_ = 0;
};

// One way to store a linear. Rows are tried in order; the first whose weight has the dtype and whose scale is
// there with a dtype and a shape that fit is it.
struct Container {
  const char* words;
  Dtypes weight;
  const char* scale;  // suffix; null: none
  Dtypes scales;
  Blocks blocks;
  StoredFormat format;
  const char* scale_2 = nullptr;
  // Where the names are compressed-tensors', and scales their reciprocals.
  const char* weight_suffix = kPlainSuffix;
  const char* input_scale = ".input_scale";
  bool reciprocal_scales = false;
};

using enum Dtype;
constexpr Container kContainers[] = {
    {"BF16", {kBF16}, nullptr, {}, Blocks::kNone, StoredFormat::kBf16},
    {"F16", {kF16}, nullptr, {}, Blocks::kNone, StoredFormat::kF16},
    {"F32", {kF32}, nullptr, {}, Blocks::kNone, StoredFormat::kF32},
    {"FP8 blocks", {kF8E4M3}, ".scale", {kF8E8M0, kF32}, Blocks::kTiles, StoredFormat::kFp8},
    {"FP8 blocks",
     {kF8E4M3},
     ".weight_scale_inv",
     {kF32, kBF16, kF16, kF8E8M0},
     Blocks::kTiles,
     StoredFormat::kFp8},
    {"FP8 with one scale",
     {kF8E4M3},
     ".weight_scale",
     {kF32, kBF16, kF16},
     Blocks::kTensor,
     StoredFormat::kFp8},
    {"FP8 with a scale a row",
     {kF8E4M3},
     ".weight_scale",
     {kF32, kBF16, kF16},
     Blocks::kRow,
     StoredFormat::kFp8},
    {"FP8 blocks", {kF8E4M3}, ".weight_scale", {kF32, kBF16, kF16}, Blocks::kTiles128, StoredFormat::kFp8},
    {"MXFP8", {kF8E4M3}, ".weight_scale", {kU8, kF8E8M0}, Blocks::kOf32, StoredFormat::kFp8},
    {"MXFP4", {kI8, kU8, kF4}, ".scale", {kF8E8M0, kU8}, Blocks::kOf32, StoredFormat::kMxfp4},
    {"NVFP4", {kU8, kF4}, ".weight_scale", {kF8E4M3}, Blocks::kOf16, StoredFormat::kNvfp4, ".weight_scale_2"},
    {"NVFP4",
     {kU8},
     ".weight_scale",
     {kF8E4M3},
     Blocks::kOf16,
     StoredFormat::kNvfp4,
     ".weight_global_scale",
     kPackedSuffix,
     ".input_global_scale",
     true},
    {"MXFP4",
     {kU8},
     ".weight_scale",
     {kU8, kF8E8M0},
     Blocks::kOf32,
     StoredFormat::kMxfp4,
     nullptr,
     kPackedSuffix},
    {"int4",
     {kI32},
     ".weight_scale",
     {kBF16, kF16, kF32},
     Blocks::kGroups,
     StoredFormat::kInt4,
     nullptr,
     kPackedSuffix},
};

bool holds_one(const Tensor& tensor) { return tensor.size_bytes == dtype_bytes(tensor.dtype); }
// Values in an element of the weight's tensor.
uint64_t values_in_element(StoredFormat format, Dtype dtype) {
  if (format == StoredFormat::kInt4) return kCodesInWord;
  const bool is_fp4 = format == StoredFormat::kMxfp4 || format == StoredFormat::kNvfp4;
  return is_fp4 && dtype != kF4 ? 2 : 1;
}

class Search {
 public:
  Search(const std::string& module, const TileSize& tiles, const FindTensor& find, const LocateTensor& where,
         const Tensor& weight)
      : module_(module), tiles_(tiles), find_(find), where_(where), weight_(weight) {}

  LinearParts run() const {
    const char* named = nullptr;  // suffix of a scale that is there
    for (const Container& container : kContainers) {
      if (!may_be(container)) continue;
      if (container.scale == nullptr) return parts_of(container, nullptr);
      const Tensor* scale = find_(module_ + container.scale);
      if (scale == nullptr) continue;
      if (container.scales.contains(scale->dtype) && fits(container, *scale))
        return parts_of(container, scale);
      if (named == nullptr) named = container.scale;
    }
    if (named != nullptr) refuse_scale(named);
    refuse_weight();
  }

 private:
  bool may_be(const Container& container) const {
    return container.weight.contains(weight_.dtype) && weight_.name.ends_with(container.weight_suffix);
  }
  uint64_t rows() const { return weight_.shape.size() == 2 ? weight_.shape[0] : 1; }
  // Of values, in a container of this kind.
  uint64_t cols(StoredFormat format) const {
    return (weight_.shape.empty() ? 1 : weight_.shape.back()) * values_in_element(format, weight_.dtype);
  }

  Shape scale_shape(const Container& container) const {
    const uint64_t width = cols(container.format);
    switch (container.blocks) {
      case Blocks::kTiles:
        return {ceil_div(rows(), tiles_.rows), ceil_div(width, tiles_.cols)};
      case Blocks::kTiles128:
        return {ceil_div(rows(), uint64_t{128}), ceil_div(width, uint64_t{128})};
      case Blocks::kRow:
        return {rows(), 1};
      case Blocks::kOf32:
        return {rows(), width / 32};
      case Blocks::kOf16:
        return {rows(), width / 16};
      case Blocks::kGroups:
        return {rows(), width / (tiles_.groups.empty() ? 32 : tiles_.groups.front())};
      default:
        return {};
    }
  }

  bool fits(const Container& container, const Tensor& scale) const {
    if (container.blocks == Blocks::kTensor) return holds_one(scale);
    if (weight_.shape.size() != 2) return false;
    if (container.blocks == Blocks::kGroups) return has_groups(cols(container.format), scale);
    const Shape expected = scale_shape(container);
    if (scale.shape == expected) return true;
    if (container.blocks == Blocks::kRow) return rows() > 1 && scale.shape == Shape{rows()};
    return container.blocks == Blocks::kTiles128 && scale.shape == Shape{expected[0], 1, expected[1], 1};
  }

  // Of whole words, of a size that the config names.
  bool has_groups(uint64_t width, const Tensor& scale) const {
    if (scale.shape.size() != 2 || scale.shape[0] != rows() || scale.shape[1] == 0) return false;
    const uint64_t group = width / scale.shape[1];
    return width % scale.shape[1] == 0 && group % kCodesInWord == 0 && group > 0 &&
           (tiles_.groups.empty() || std::ranges::find(tiles_.groups, group) != tiles_.groups.end());
  }

  LinearParts parts_of(const Container& container, const Tensor* scale) const {
    LinearParts parts{.format = format_of(container, scale), .weight = &weight_, .scale = scale};
    parts.container = container.words;
    if (scale != nullptr) require_matrix(container);
    if (container.scale_2 != nullptr) parts.scale_2 = &scale_2(container);
    if (container.format == StoredFormat::kInt4) parts.shape = &shape_tensor();
    parts.input_scale = find_(module_ + container.input_scale);
    return parts;
  }

  LinearFormat format_of(const Container& container, const Tensor* scale) const {
    LinearFormat format{.stored = container.format, .rows = rows(), .cols = cols(container.format)};
    format.reciprocal_scales = container.reciprocal_scales;
    if (weight_.shape.size() > 2 && weight_.shape.back() > 0)
      format.rows = *element_count(weight_.shape) / weight_.shape.back();
    if (container.format != StoredFormat::kFp8 && container.format != StoredFormat::kInt4) return format;
    format.scale_type = scale->dtype == kF32    ? ScaleType::kF32
                        : scale->dtype == kBF16 ? ScaleType::kBF16
                        : scale->dtype == kF16  ? ScaleType::kF16
                                                : ScaleType::kE8M0;
    switch (container.blocks) {
      case Blocks::kTiles:
        format.tile_rows = tiles_.rows, format.tile_cols = tiles_.cols;
        break;
      case Blocks::kTensor:
        format.tile_rows = format.rows, format.tile_cols = format.cols;
        break;
      case Blocks::kRow:
        format.tile_rows = 1, format.tile_cols = format.cols;
        break;
      case Blocks::kOf32:
        format.tile_rows = 1, format.tile_cols = 32;
        break;
      case Blocks::kGroups:
        format.tile_rows = 1, format.tile_cols = format.cols / scale->shape[1];
        break;
      default:
        break;
    }
    return format;
  }

  void require_two_dimensions() const {
    if (weight_.shape.size() == 2 && weight_.size_bytes > 0) return;
    throw Error(
        ErrorKind::kUnsupported, where_(weight_), "is a quantized weight but no matrix",
        {.found = fmt::format("{} {}", dtype_name(weight_.dtype), shape_text(weight_.shape)), .hint = {}});
  }

  void require_matrix(const Container& container) const {
    require_two_dimensions();
    const uint64_t block = container.blocks == Blocks::kOf32   ? 32
                           : container.blocks == Blocks::kOf16 ? 16
                                                               : 1;
    if (cols(container.format) % block == 0) return;
    throw Error(ErrorKind::kBadInput, where_(weight_), "its columns are no whole blocks",
                {.expected = fmt::format("a multiple of {}", block),
                 .found = std::to_string(cols(container.format))});
  }

  const Tensor& scale_2(const Container& container) const {
    const std::string name = module_ + container.scale_2;
    const Tensor* found = find_(name);
    if (found == nullptr) refuse_without("'" + name + "'");
    if (found->dtype != kF32 || !holds_one(*found)) {
      throw Error(ErrorKind::kBadInput, where_(*found), "does not fit its weight",
                  {.expected = "F32 of one value",
                   .found = fmt::format("{} {}", dtype_name(found->dtype), shape_text(found->shape)),
                   .hint = {}});
    }
    return *found;
  }

  const Tensor& shape_tensor() const {
    const std::string name = module_ + kShapeSuffix;
    const Tensor* found = find_(name);
    if (found == nullptr) refuse_without("'" + name + "'", "shape");
    if ((found->dtype == kI64 || found->dtype == kI32) && found->shape == Shape{2}) return *found;
    throw Error(ErrorKind::kBadInput, where_(*found), "does not fit its weight",
                {.expected = "I64 or I32 [2]",
                 .found = fmt::format("{} {}", dtype_name(found->dtype), shape_text(found->shape)),
                 .hint = {}});
  }

  // Whether the weight may be of this container, with a scale of this name.
  bool is_named(const Container& container, std::string_view suffix) const {
    return container.scale != nullptr && container.scale == suffix && may_be(container);
  }

  // What scales of this name may be beside the weight; "" without one.
  std::string expected_scales(std::string_view suffix) const {
    std::string expected;
    for (const Container& container : kContainers) {
      if (!is_named(container, suffix)) continue;
      const std::string shape =
          container.blocks == Blocks::kTensor ? "of one value" : shape_text(scale_shape(container));
      expected += (expected.empty() ? "" : ", ") + container.scales.text() + " " + shape;
    }
    return expected;
  }

  // A scale of a known name whose dtype or shape fits no container.
  [[noreturn]] void refuse_scale(const char* suffix) const {
    const Tensor& scale = *find_(module_ + suffix);
    require_two_dimensions();
    const bool is_known = std::ranges::any_of(kContainers, [&](const Container& container) {
      return is_named(container, suffix) && container.scales.contains(scale.dtype);
    });
    throw Error(is_known ? ErrorKind::kBadInput : ErrorKind::kUnsupported, where_(scale),
                "does not fit its weight",
                {.expected = expected_scales(suffix),
                 .found = fmt::format("{} {}", dtype_name(scale.dtype), shape_text(scale.shape)),
                 .hint = fmt::format("the weight is {} {}{}", dtype_name(weight_.dtype),
                                     shape_text(weight_.shape), uneven_groups())});
  }

  // Where the config's groups do not fit the integers, or there are several.
  std::string uneven_groups() const {
    const uint64_t width = cols(StoredFormat::kInt4);
    if (weight_.dtype != Dtype::kI32 || tiles_.groups.empty()) return "";
    if (tiles_.groups.size() > 1)
      return fmt::format("; config.json has groups of {}", fmt::join(tiles_.groups, " and "));
    if (width % tiles_.groups[0] == 0) return "";
    return fmt::format(": {} values a row, which groups of {} do not divide", width, tiles_.groups[0]);
  }

  [[noreturn]] void refuse_weight() const {
    std::string names;
    for (const Container& container : kContainers) {
      if (container.scale == nullptr || !may_be(container)) continue;
      const std::string name = "'" + module_ + container.scale + "'";
      if (names.find(name) == names.npos) names += (names.empty() ? "" : " or ") + name;
    }
    if (!names.empty()) refuse_without(names);
    throw Error(ErrorKind::kUnsupported, where_(weight_), "is stored in a dtype that no weight has",
                {.expected = "BF16, F16, F32, or FP8, FP4 or packed int4 with scales",
                 .found = std::string(dtype_name(weight_.dtype)),
                 .hint = {}});
  }

  // Names what is there instead.
  [[noreturn]] void refuse_without(const std::string& names, std::string_view what = "scale") const {
    std::string others;
    for (const char* suffix : {".scale", ".weight_scale", ".weight_scale_inv", ".weight_scale_2",
                               ".weight_global_scale", ".weight_shape", ".input_scale"}) {
      if (const Tensor* other = find_(module_ + suffix)) {
        others += (others.empty() ? "" : ", ") + printable(other->name) + " (" +
                  std::string(dtype_name(other->dtype)) + ")";
      }
    }
    throw Error(others.empty() ? ErrorKind::kBadInput : ErrorKind::kUnsupported, where_(weight_),
                fmt::format("is {}, and its {} is missing", dtype_name(weight_.dtype), what),
                {.expected = "a tensor " + names, .found = others});
  }

  const std::string& module_;
  const TileSize& tiles_;
  const FindTensor& find_;
  const LocateTensor& where_;
  const Tensor& weight_;
};

TileSize parse_tiles(const Json& size, const std::string& file, const std::string& section) {
  const auto side = [&](size_t axis) -> uint64_t {
    if (!size.is_array() || size.size() != 2) return 0;
    const Json& value = size.at(axis);
    if (!value.is_number_integer()) return 0;
    const auto number = value.get<int64_t>();  // negative where it is too large for one
    return number > 0 && number <= static_cast<int64_t>(kMostTile) ? static_cast<uint64_t>(number) : 0;
  };
  const TileSize tiles{.rows = side(0), .cols = side(1)};
  if (tiles.rows > 0 && tiles.cols > 0) return tiles;
  throw Error(ErrorKind::kBadInput, {.file = file},
              fmt::format("'{}.weight_block_size' is no tile size", printable(section)),
              {.expected = fmt::format("two integers from 1 to {}", kMostTile),
               .found = size.dump(-1, ' ', true, Json::error_handler_t::replace)});
}

// Adds the group_size of a section's integers; 0 where one is no size.
void add_group_sizes(const Json& section, std::set<uint64_t>& sizes) {
  const Json groups = section.is_object() ? section.value("config_groups", Json()) : Json();
  if (!groups.is_object()) return;
  for (const Json& group : groups) {
    const Json weights = group.is_object() ? group.value("weights", Json()) : Json();
    if (!weights.is_object() || weights.value("type", Json()) != "int") continue;
    const Json size = weights.value("group_size", Json());
    sizes.insert(size.is_number_integer() && size > 0 && size <= kMostTile ? size.get<uint64_t>() : 0);
  }
}

}  // namespace

TileSize tile_size(const Json& config, const std::string& file) {
  std::optional<TileSize> found;
  std::set<uint64_t> groups;
  for (const QuantizationSection& section : quantization_sections(config))
    add_group_sizes(*section.value, groups);
  for (const QuantizationSection& section : quantization_sections(config)) {
    const auto size =
        section.value->is_object() ? section.value->find("weight_block_size") : section.value->end();
    if (size == section.value->end() || size->is_null()) continue;
    const TileSize tiles = parse_tiles(*size, file, section.name);
    if (found && *found != tiles) {
      throw Error(ErrorKind::kUnsupported, {.file = file},
                  "has several sections with other values of weight_block_size",
                  {.expected = fmt::format("{} x {} everywhere", found->rows, found->cols),
                   .found = fmt::format("{} x {} in {}", tiles.rows, tiles.cols, printable(section.name))});
    }
    found = tiles;
  }
  TileSize tiles = found.value_or(TileSize{});
  if (!groups.contains(0)) tiles.groups.assign(groups.begin(), groups.end());
  return tiles;
}

std::optional<StoredFormat> plain_format(Dtype dtype) {
  if (dtype == kBF16) return StoredFormat::kBf16;
  if (dtype == kF16) return StoredFormat::kF16;
  if (dtype == kF32) return StoredFormat::kF32;
  return std::nullopt;
}

bool is_plain(StoredFormat format) {
  return format == StoredFormat::kBf16 || format == StoredFormat::kF16 || format == StoredFormat::kF32;
}

uint64_t LinearFormat::scale_rows() const {
  return stored == StoredFormat::kFp8 && tile_rows < rows ? tile_rows : 1;
}

LinearFormat::Bytes LinearFormat::weight_bytes(uint64_t first, uint64_t count) const {
  static constexpr uint64_t kHalfBytes[] = {4, 8, 2, 1, 1, 1, 4};  // of a value, by StoredFormat
  const uint64_t row = cols * kHalfBytes[static_cast<size_t>(stored)] / 2;
  return {first * row, count * row};
}

LinearFormat::Bytes LinearFormat::scale_bytes(uint64_t first, uint64_t count) const {
  switch (stored) {
    case StoredFormat::kMxfp4:
      return {first * (cols / 32), count * (cols / 32)};
    case StoredFormat::kNvfp4:
      return {first * (cols / 16), count * (cols / 16)};
    case StoredFormat::kInt4:
    case StoredFormat::kFp8: {
      const uint64_t row = ceil_div(cols, tile_cols) * nibblecast::scale_bytes(scale_type);
      const uint64_t begin = first / tile_rows, end = ceil_div(first + count, tile_rows);
      return {begin * row, (end - begin) * row};
    }
    default:
      return {};
  }
}

StoredLinear LinearFormat::view(uint64_t count, const std::byte* weight, const std::byte* scale,
                                std::span<const std::byte> scale_2) const {
  const auto* codes = reinterpret_cast<const uint8_t*>(weight);
  const auto* scales = reinterpret_cast<const uint8_t*>(scale);
  switch (stored) {
    case StoredFormat::kBf16:
      return Bf16View{weight, count, cols};
    case StoredFormat::kF16:
      return F16View{weight, count, cols};
    case StoredFormat::kF32:
      return F32View{weight, count, cols};
    case StoredFormat::kMxfp4:
      return Mxfp4View{.codes = codes, .scales = scales, .rows = count, .cols = cols};
    case StoredFormat::kFp8:
      return Fp8BlockView{.codes = codes,
                          .scales = scales,
                          .scale_type = scale_type,
                          .rows = count,
                          .cols = cols,
                          .tile_rows = tile_rows,
                          .tile_cols = tile_cols};
    case StoredFormat::kInt4:
      return Int4View{.codes = codes,
                      .scales = scales,
                      .scale_type = scale_type,
                      .rows = count,
                      .cols = cols,
                      .group = tile_cols};
    case StoredFormat::kNvfp4: {
      float value = 1;
      if (scale_2.size() == sizeof value) std::memcpy(&value, scale_2.data(), sizeof value);
      if (reciprocal_scales) value = 1 / value;
      return Nvfp4View{.codes = codes, .block_scales = scales, .scale_2 = value, .rows = count, .cols = cols};
    }
  }
  return {};
}

std::optional<LinearParts> find_linear(const std::string& module, const TileSize& tiles,
                                       const FindTensor& find, const LocateTensor& where) {
  const Tensor* weight = find(module + kPlainSuffix);
  if (weight == nullptr) weight = find(module + kPackedSuffix);
  if (weight == nullptr) return std::nullopt;
  return Search(module, tiles, find, where, *weight).run();
}

std::optional<LinearParts> find_linear(const Checkpoint& source, const std::string& module,
                                       const TileSize& tiles) {
  return find_linear(
      module, tiles, [&](const std::string& name) { return source.find(name); },
      [&](const Tensor& tensor) { return source.where(tensor); });
}

std::optional<LinearParts> find_stack(const Checkpoint& source, const std::string& module, uint64_t count,
                                      const Shape& shape) {
  constexpr uint64_t kBlock = 32;
  const auto require = [&](const Tensor& tensor, const Shape& expected, bool is_dtype, const char* dtypes) {
    if (is_dtype && tensor.shape == expected) return;
    throw Error(is_dtype ? ErrorKind::kBadInput : ErrorKind::kUnsupported, source.where(tensor),
                "is not what config.json says of stacked experts",
                {.expected = dtypes + shape_text(expected),
                 .found = fmt::format("{} {}", dtype_name(tensor.dtype), shape_text(tensor.shape)),
                 .hint = {}});
  };
  const uint64_t rows = shape[0] / count, across = shape[1] / kBlock;
  if (const Tensor* const plain = source.find(module)) {
    const std::optional<StoredFormat> stored = plain_format(plain->dtype);
    require(*plain, {count, shape[1], rows}, stored.has_value(), "BF16, F16 or F32 ");
    LinearParts parts{.format = {.stored = *stored, .rows = shape[0], .cols = shape[1]}, .weight = plain};
    parts.container = "experts in one tensor";
    return parts;
  }
  const Tensor* const blocks = source.find(module + "_blocks");
  if (blocks == nullptr) return std::nullopt;
  require(*blocks, {count, rows, across, kBlock / 2}, blocks->dtype == kU8, "U8 ");
  const Tensor* const scales = source.find(module + "_scales");
  if (scales == nullptr) {
    throw Error(ErrorKind::kBadInput, source.where(*blocks), "is MXFP4, and its scale is missing",
                {.expected = "a tensor '" + module + "_scales'"});
  }
  require(*scales, {count, rows, across}, scales->dtype == kU8, "U8 ");
  LinearParts parts{.format = {.stored = StoredFormat::kMxfp4, .rows = shape[0], .cols = shape[1]},
                    .weight = blocks,
                    .scale = scales};
  parts.container = "MXFP4";
  return parts;
}

std::string_view module_of_weight(std::string_view tensor) {
  for (const std::string_view suffix : {kPlainSuffix, kPackedSuffix}) {
    if (tensor.ends_with(suffix)) return tensor.substr(0, tensor.size() - suffix.size());
  }
  return {};
}

void check_weight_shape(const LinearFormat& format, const Tensor& tensor, std::span<const std::byte> bytes,
                        const Where& where) {
  std::array<int64_t, 2> said = {};
  if (tensor.dtype == kI64 && bytes.size() == sizeof said) {
    std::memcpy(said.data(), bytes.data(), sizeof said);
  } else if (std::array<int32_t, 2> narrow = {}; bytes.size() == sizeof narrow) {
    std::memcpy(narrow.data(), bytes.data(), sizeof narrow);
    std::ranges::copy(narrow, said.begin());
  }
  if (said == std::array{static_cast<int64_t>(format.rows), static_cast<int64_t>(format.cols)}) return;
  throw Error(ErrorKind::kBadInput, where, "says another shape than its packed weight has",
              {.expected = shape_text({format.rows, format.cols}),
               .found = fmt::format("[{}, {}]", said[0], said[1]),
               .hint = {}});
}

std::optional<float> read_input_scale(const Checkpoint& source, const LinearParts& parts,
                                      TensorReader& reader) {
  if (parts.input_scale == nullptr) return std::nullopt;
  const Tensor& tensor = *parts.input_scale;
  const auto refuse = [&](const std::string& found) {
    throw Error(ErrorKind::kBadInput, source.where(tensor), "is no scale of activations",
                {.expected = "one F32 value, above 0 and finite", .found = found, .hint = {}});
  };
  if (tensor.dtype != kF32 || !holds_one(tensor))
    refuse(fmt::format("{} {}", dtype_name(tensor.dtype), shape_text(tensor.shape)));
  float value = 0;
  reader.read(tensor, 0, std::as_writable_bytes(std::span(&value, 1)));
  const float scale = parts.format.reciprocal_scales ? 1 / value : value;
  if (!(scale > 0) || !std::isfinite(scale)) refuse(fmt::format("{}", value));
  return scale;
}

Slice LinearSource::rows_of(const Slice& part, uint64_t first, uint64_t count) const {
  if (&part == &scale_2 || &part == &shape) return part;
  const LinearFormat::Bytes bytes =
      &part == &weight ? format.weight_bytes(first, count) : format.scale_bytes(first, count);
  return {part.tensor, part.begin + bytes.begin, bytes.size};
}

StoredLinear LinearSource::view(uint64_t count, std::span<const std::span<const std::byte>> parts) const {
  const std::byte* const scales = scale.is_there() ? parts[1].data() : nullptr;
  return format.view(count, parts[0].data(), scales,
                     scale_2.is_there() ? parts[2] : std::span<const std::byte>());
}

void LinearSource::check(const Checkpoint& source, std::span<const std::span<const std::byte>> parts) const {
  if (!shape.is_there()) return;
  const Tensor& tensor = source.tensors()[shape.tensor];
  check_weight_shape(format, tensor, parts.back(), source.where(tensor));
}

LinearSource source_of(const Checkpoint& source, const LinearParts& parts) {
  const auto slice = [&](const Tensor* tensor) -> Slice {
    if (tensor == nullptr) return {};
    return {static_cast<uint32_t>(tensor - source.tensors().data()), 0, tensor->size_bytes};
  };
  return {.format = parts.format,
          .weight = slice(parts.weight),
          .scale = slice(parts.scale),
          .scale_2 = slice(parts.scale_2),
          .shape = slice(parts.shape)};
}

LinearSource plain_source(const Checkpoint& source, uint32_t index) {
  const Tensor& tensor = source.tensors()[index];
  const std::optional<StoredFormat> stored = plain_format(tensor.dtype);
  if (!stored) {
    throw Error(ErrorKind::kUnsupported, source.where(tensor), "is stored in a dtype that no weight has",
                {.expected = "BF16, F16 or F32", .found = std::string(dtype_name(tensor.dtype)), .hint = {}});
  }
  LinearSource plain{.weight = {index, 0, tensor.size_bytes}};
  plain.format.stored = *stored;
  plain.format.cols = tensor.shape.empty() ? 1 : tensor.shape.back();
  plain.format.rows = plain.format.cols == 0 ? 0 : *element_count(tensor.shape) / plain.format.cols;
  return plain;
}

LinearSource stacked_source(const Checkpoint& source, uint32_t tensor, uint64_t first_row, uint64_t rows) {
  LinearSource stack = plain_source(source, tensor);
  stack.weight = stack.rows_of(stack.weight, first_row, rows);
  stack.format.rows = rows;
  return stack;
}

}  // namespace nibblecast
