#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "base/error.h"
#include "checkpoint/printable.h"
#include "cli/inspect_parts.h"
#include "cli/summary.h"
#include "cli/text.h"
#include "formats/bf16.h"
#include "formats/fp8_block.h"
#include "formats/mxfp4.h"
#include "formats/nvfp4.h"
#include "model/deepseek_v4_modules.h"

namespace nibblecast {
namespace {

constexpr uint64_t kChunkBytes = 16 << 20;
constexpr size_t kShownValues = 16;
constexpr size_t kShownBlocks = 4;

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// IEEE binary16: sign 1, exponent 5 (bias 15), mantissa 10.
double decode_f16(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  double value = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  if (exponent == 31) value = mantissa == 0 ? std::numeric_limits<double>::infinity() : std::nan("");
  return bits >> 15 ? -value : value;
}

// F8_E5M2 is the upper half of binary16.
double decode(Dtype dtype, const std::byte* at) {
  switch (dtype) {
    case Dtype::kBool:
    case Dtype::kU8:
      return load<uint8_t>(at);
    case Dtype::kI8:
      return load<int8_t>(at);
    case Dtype::kF8E5M2:
      return decode_f16(static_cast<uint16_t>(load<uint8_t>(at) << 8));
    case Dtype::kF8E4M3:
      return decode_e4m3(load<uint8_t>(at));
    case Dtype::kF8E8M0:
      return decode_e8m0(load<uint8_t>(at));
    case Dtype::kI16:
      return load<int16_t>(at);
    case Dtype::kU16:
      return load<uint16_t>(at);
    case Dtype::kF16:
      return decode_f16(load<uint16_t>(at));
    case Dtype::kBF16:
      return to_float(load<bf16>(at));
    case Dtype::kI32:
      return load<int32_t>(at);
    case Dtype::kU32:
      return load<uint32_t>(at);
    case Dtype::kF32:
      return load<float>(at);
    case Dtype::kF64:
      return load<double>(at);
    case Dtype::kI64:
      return static_cast<double>(load<int64_t>(at));
    case Dtype::kU64:
      return static_cast<double>(load<uint64_t>(at));
  }
  return std::nan("");
}

struct Range {
  double least = std::numeric_limits<double>::infinity(), largest = -least;
  uint64_t zeros = 0, not_finite = 0, count = 0;

  void add(double value) {
    ++count;
    if (!std::isfinite(value)) {
      ++not_finite;
      return;
    }
    if (value == 0) ++zeros;
    least = std::min(least, value);
    largest = std::max(largest, value);
  }
  std::string text() const {
    if (count == not_finite) return fmt::format("{} values, none finite", grouped(count));
    std::string text =
        fmt::format("{:.6g} to {:.6g}, {} of {} zero", least, largest, grouped(zeros), grouped(count));
    return not_finite == 0 ? text : text + fmt::format(", {} not finite", grouped(not_finite));
  }
  Json json() const {
    Json range = {{"count", count}, {"zeros", zeros}, {"not_finite", not_finite}};
    if (count > not_finite) range.update({{"min", least}, {"max", largest}});
    return range;
  }
};

Range range_of(const StoredFiles& stored, const Tensor& tensor) {
  Range range;
  const uint64_t width = dtype_bytes(tensor.dtype);
  for (uint64_t begin = 0; begin < tensor.size_bytes; begin += kChunkBytes) {
    const auto bytes = stored.read(tensor, begin, std::min(kChunkBytes, tensor.size_bytes - begin));
    for (uint64_t at = 0; at < bytes.size(); at += width) range.add(decode(tensor.dtype, bytes.data() + at));
  }
  return range;
}

std::vector<double> first_values(const StoredFiles& stored, const Tensor& tensor, size_t limit) {
  const uint64_t width = dtype_bytes(tensor.dtype);
  const auto bytes = stored.read(tensor, 0, std::min<uint64_t>(limit * width, tensor.size_bytes));
  std::vector<double> values;
  for (uint64_t at = 0; at < bytes.size(); at += width)
    values.push_back(decode(tensor.dtype, bytes.data() + at));
  return values;
}

// NaN and infinity have no JSON number.
Json numbers(std::span<const double> values) {
  Json json = Json::array();
  for (const double value : values)
    json.push_back(std::isfinite(value) ? Json(value) : Json(fmt::format("{}", value)));
  return json;
}

struct Block {
  std::string codes;  // hexadecimal, as stored
  double scale = 0;   // of the block
  std::vector<double> values;
};

// A weight's first row as blocks with one scale each.
struct BlockLayout {
  uint64_t width = 0;       // elements a scale
  uint64_t code_bytes = 0;  // of one block
};

std::vector<Block> blocks_of(std::span<const float> row, std::span<const std::byte> codes,
                             std::span<const double> scales, const BlockLayout& layout) {
  std::vector<Block> blocks;
  for (size_t index = 0; index < std::min(kShownBlocks, scales.size()); ++index) {
    Block block{.codes = {}, .scale = scales[index], .values = {}};
    for (uint64_t at = 0; at < layout.code_bytes && index * layout.code_bytes + at < codes.size(); ++at) {
      block.codes += fmt::format("{:02x}", static_cast<uint8_t>(codes[index * layout.code_bytes + at]));
    }
    for (uint64_t at = 0; at < layout.width && index * layout.width + at < row.size(); ++at) {
      block.values.push_back(row[index * layout.width + at]);
    }
    blocks.push_back(std::move(block));
  }
  return blocks;
}

const uint8_t* raw(const std::vector<std::byte>& bytes) {
  return reinterpret_cast<const uint8_t*>(bytes.data());
}

float scalar(const StoredFiles& stored, const Tensor* tensor) {
  if (tensor == nullptr || tensor->dtype != Dtype::kF32 || tensor->size_bytes != 4) return std::nanf("");
  return load<float>(stored.read(*tensor, 0, 4).data());
}

const Tensor& scale_of(const StoredFiles& stored, const std::string& module, StoredFormat format) {
  return *stored.find(module + (format == StoredFormat::kNvfp4 ? ".weight_scale" : ".scale"));
}

// Elements that share a scale along a row; of FP8 tiles 128 (or what fits) by the shapes.
BlockLayout layout_of(const Tensor& weight, const Tensor& scale, StoredFormat format) {
  if (format == StoredFormat::kMxfp4) return {32, 16};
  if (format == StoredFormat::kNvfp4) return {16, 8};
  const uint64_t tiles = std::max<uint64_t>(scale.shape[1], 1);
  uint64_t width = 1;
  while (width * tiles < weight.shape[1]) width *= 2;
  return {width, width};
}

std::vector<Block> first_blocks(const StoredFiles& stored, const std::string& module, StoredFormat format) {
  const Tensor& weight = *stored.find(module + ".weight");
  const Tensor& scale = scale_of(stored, module, format);
  const BlockLayout layout = layout_of(weight, scale, format);
  const uint64_t shown = std::min<uint64_t>(kShownBlocks, scale.shape[1]);
  const std::vector<std::byte> codes =
      stored.read(weight, 0, std::min(weight.shape[1], shown * layout.code_bytes));
  const std::vector<std::byte> scales = stored.read(scale, 0, shown * dtype_bytes(scale.dtype));
  const size_t cols = format == StoredFormat::kFp8Block ? codes.size() : codes.size() * 2;
  std::vector<float> row(cols);
  if (format == StoredFormat::kMxfp4) {
    dequantize_mxfp4_ref<float>({.codes = raw(codes), .scales = raw(scales), .rows = 1, .cols = cols}, 0, 1,
                                row.data(), cols);
  } else if (format == StoredFormat::kNvfp4) {
    const float scale_2 = scalar(stored, stored.find(module + ".weight_scale_2"));
    dequantize_nvfp4_ref<float>(
        {.codes = raw(codes), .block_scales = raw(scales), .scale_2 = scale_2, .rows = 1, .cols = cols}, 0, 1,
        row.data(), cols);
  } else {
    dequantize_fp8_block_ref<float>(
        {.codes = raw(codes),
         .scales = scales.data(),
         .scale_type = scale.dtype == Dtype::kF32 ? ScaleType::kF32 : ScaleType::kE8M0,
         .rows = 1,
         .cols = cols,
         .tile_rows = 1,
         .tile_cols = layout.width},
        0, 1, row.data(), cols);
  }
  return blocks_of(row, codes, first_values(stored, scale, shown), layout);
}

void show_blocks(const StoredFiles& stored, const std::string& module, StoredFormat format, Shown& shown) {
  const Tensor& scale = scale_of(stored, module, format);
  const Range scales = range_of(stored, scale);
  shown.text +=
      summary_line("format", weight_format_name(format)) +
      summary_line("scales", fmt::format("{} {} {}: {}", printable(scale.name), dtype_name(scale.dtype),
                                         shape_text(scale.shape), scales.text()));
  shown.json["weight_format"] = weight_format_name(format);
  shown.json["scales"] = scales.json();
  for (const char* name : {"weight_scale_2", "input_scale"}) {
    if (format != StoredFormat::kNvfp4) break;
    const double value = scalar(stored, stored.find(fmt::format("{}.{}", module, name)));
    shown.text += summary_line("", fmt::format("{:<15} {:.9g}", name, value));
    shown.json[name] = std::isfinite(value) ? Json(value) : Json();
  }
  Json blocks = Json::array();
  for (const Block& block : first_blocks(stored, module, format)) {
    blocks.push_back({{"codes", block.codes},
                      {"scale", numbers({&block.scale, 1})[0]},
                      {"values", numbers(block.values)}});
    const std::span<const double> values(block.values.data(), std::min(kShownValues, block.values.size()));
    shown.text += summary_line(
        blocks.size() == 1 ? "row 0" : "",
        fmt::format("scale {:g}, codes {}{}", block.scale, block.codes.substr(0, 2 * kShownValues),
                    block.codes.size() > 2 * kShownValues ? "..." : ""));
    shown.text += summary_line("", fmt::format("  {:g}{}", fmt::join(values, " "),
                                               values.size() < block.values.size() ? " ..." : ""));
  }
  shown.json["blocks"] = std::move(blocks);
}

// "X.weight" gives "X"; nothing for a tensor that is no weight of scaled blocks.
std::optional<std::string> block_module(const StoredFiles& stored, const Tensor& tensor) {
  if (!tensor.name.ends_with(".weight")) return std::nullopt;
  std::string module = tensor.name.substr(0, tensor.name.size() - 7);
  if (stored.format_of(module) == StoredFormat::kPlain) return std::nullopt;
  return module;
}

// By the name it has, that of its module, or transformers' for either.
const Tensor* find_named(const StoredFiles& stored, const std::string& name) {
  if (const Tensor* tensor = stored.find(name)) return tensor;
  if (const Tensor* tensor = stored.find(name + ".weight")) return tensor;
  for (const Tensor& tensor : stored.tensors()) {
    const size_t dot = tensor.name.rfind('.');
    if (dot == std::string::npos) continue;
    const std::string hub = hub_module_name(std::string_view(tensor.name).substr(0, dot));
    const std::string kind = tensor.name.substr(dot);
    if (!hub.empty() && (hub + kind == name || (kind == ".weight" && hub == name))) return &tensor;
  }
  return nullptr;
}

}  // namespace

Shown show_tensor(const StoredFiles& stored, const std::string& name) {
  const Tensor* tensor = find_named(stored, name);
  if (tensor == nullptr) {
    throw Error(ErrorKind::kUsage, {.file = {}, .tensor = name}, "there is no such tensor",
                {.hint = "names are the official ones, as layers.0.ffn.experts.0.w1.weight, or "
                         "transformers', as model.layers.0.self_attn.q_a_proj"});
  }
  const std::string shard = stored.shards()[tensor->shard].filename().string();
  Shown shown;
  shown.text =
      summary_line("tensor", printable(tensor->name)) +
      summary_line("stored", fmt::format("{} {}, {} bytes at byte {} of {}", dtype_name(tensor->dtype),
                                         shape_text(tensor->shape), grouped(tensor->size_bytes),
                                         grouped(tensor->offset), printable(shard)));
  shown.json = {{"name", tensor->name},   {"dtype", dtype_name(tensor->dtype)},
                {"shape", tensor->shape}, {"bytes", tensor->size_bytes},
                {"shard", shard},         {"offset", tensor->offset}};
  if (const auto module = block_module(stored, *tensor)) {
    show_blocks(stored, *module, stored.format_of(*module), shown);
    return shown;
  }
  const Range range = range_of(stored, *tensor);
  const std::vector<double> values = first_values(stored, *tensor, kShownValues);
  shown.text += summary_line("values", range.text()) +
                summary_line("first", fmt::format("{:g}", fmt::join(values, " ")));
  shown.json["values"] = range.json();
  shown.json["first"] = numbers(values);
  return shown;
}

}  // namespace nibblecast
