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
#include "formats/f16.h"
#include "formats/nvfp4.h"
#include "formats/stored_linear.h"
#include "model/family.h"
#include "weights/container.h"

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

// F8_E5M2 is the upper half of binary16.
double decode(Dtype dtype, const std::byte* at) {
  switch (dtype) {
    case Dtype::kF4:  // no byte of its own
      break;
    case Dtype::kBool:
    case Dtype::kU8:
      return load<uint8_t>(at);
    case Dtype::kI8:
      return load<int8_t>(at);
    case Dtype::kF8E5M2:
      return to_float(f16{static_cast<uint16_t>(load<uint8_t>(at) << 8)});
    case Dtype::kF8E4M3:
      return decode_e4m3(load<uint8_t>(at));
    case Dtype::kF8E8M0:
      return decode_e8m0(load<uint8_t>(at));
    case Dtype::kI16:
      return load<int16_t>(at);
    case Dtype::kU16:
      return load<uint16_t>(at);
    case Dtype::kF16:
      return to_float(load<f16>(at));
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

// Values in `bytes`, one after the other.
template <class F>
void for_values(Dtype dtype, std::span<const std::byte> bytes, const F& f) {
  const uint64_t width = dtype_bytes(dtype);
  for (uint64_t at = 0; at < bytes.size(); at += width) {
    if (dtype != Dtype::kF4) {
      f(decode(dtype, bytes.data() + at));
      continue;
    }
    const auto pair = std::to_integer<uint8_t>(bytes[at]);
    f(decode_e2m1(pair & 15));
    f(decode_e2m1(pair >> 4));
  }
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
  for (uint64_t begin = 0; begin < tensor.size_bytes; begin += kChunkBytes) {
    const auto bytes = stored.read(tensor, begin, std::min(kChunkBytes, tensor.size_bytes - begin));
    for_values(tensor.dtype, bytes, [&](double value) { range.add(value); });
  }
  return range;
}

std::vector<double> first_values(const StoredFiles& stored, const Tensor& tensor, size_t limit) {
  const uint64_t width = dtype_bytes(tensor.dtype);
  const auto bytes = stored.read(tensor, 0, std::min<uint64_t>(limit * width, tensor.size_bytes));
  std::vector<double> values;
  for_values(tensor.dtype, bytes, [&](double value) { values.push_back(value); });
  values.resize(std::min(values.size(), limit));
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

float scalar(const StoredFiles& stored, const Tensor* tensor) {
  if (tensor == nullptr || tensor->dtype != Dtype::kF32 || tensor->size_bytes != 4) return std::nanf("");
  return load<float>(stored.read(*tensor, 0, 4).data());
}

// Elements that share a scale along a row.
BlockLayout layout_of(const LinearFormat& format) {
  if (format.stored == StoredFormat::kMxfp4) return {32, 16};
  if (format.stored == StoredFormat::kNvfp4) return {16, 8};
  if (format.stored == StoredFormat::kInt4) return {format.tile_cols, format.tile_cols / 2};
  return {format.tile_cols, format.tile_cols};
}

std::vector<Block> first_blocks(const StoredFiles& stored, const LinearParts& parts) {
  const BlockLayout layout = layout_of(parts.format);
  LinearFormat row = parts.format;  // what of row 0 is shown
  row.cols = std::min(row.cols, kShownBlocks * layout.width);
  row.rows = row.tile_rows = 1;
  const std::vector<std::byte> codes = stored.read(*parts.weight, 0, row.weight_bytes(0, 1).size);
  const std::vector<std::byte> scales = stored.read(*parts.scale, 0, row.scale_bytes(0, 1).size);
  std::vector<std::byte> scale_2;
  if (parts.scale_2 != nullptr) scale_2 = stored.read(*parts.scale_2, 0, parts.scale_2->size_bytes);
  std::vector<float> values(row.cols);
  dequantize_rows_ref(row.view(1, codes.data(), scales.data(), scale_2), 0, 1, values.data(), row.cols);
  const uint64_t shown = scales.size() / dtype_bytes(parts.scale->dtype);
  return blocks_of(values, codes, first_values(stored, *parts.scale, shown), layout);
}

void show_blocks(const StoredFiles& stored, const std::string& module, const LinearParts& parts,
                 Shown& shown) {
  const Tensor& scale = *parts.scale;
  const Range scales = range_of(stored, scale);
  shown.text +=
      summary_line("format", parts.container) +
      summary_line("scales", fmt::format("{} {} {}: {}", printable(scale.name), dtype_name(scale.dtype),
                                         shape_text(scale.shape), scales.text()));
  shown.json["weight_format"] = parts.container;
  shown.json["scales"] = scales.json();
  const bool inverted = parts.format.reciprocal_scales;
  for (const char* name : {inverted ? "weight_global_scale" : "weight_scale_2",
                           inverted ? "input_global_scale" : "input_scale"}) {
    if (parts.format.stored != StoredFormat::kNvfp4) break;
    const double value = scalar(stored, stored.find(fmt::format("{}.{}", module, name)));
    shown.text += summary_line("", fmt::format("{:<{}} {:.9g}", name, inverted ? 19 : 15, value));
    shown.json[name] = std::isfinite(value) ? Json(value) : Json();
  }
  Json blocks = Json::array();
  for (const Block& block : first_blocks(stored, parts)) {
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

const Tensor* find_weight(const StoredFiles& stored, const std::string& module) {
  const Tensor* plain = stored.find(module + ".weight");
  return plain != nullptr ? plain : stored.find(module + ".weight_packed");
}

// By the name it has, that of its module, or transformers' for either.
const Tensor* find_named(const StoredFiles& stored, const std::string& name) {
  if (const Tensor* tensor = stored.find(name)) return tensor;
  if (const Tensor* tensor = find_weight(stored, name)) return tensor;
  try {
    const Model model = read_model(stored.config(), "config.json");
    const ModuleIndex modules(model.table);
    const WeightModule* module = modules.find(name);
    if (module != nullptr) return find_weight(stored, module->name);
    const size_t dot = name.rfind('.');  // a scale, by transformers' name of its module
    module = dot == std::string::npos ? nullptr : modules.find(name.substr(0, dot));
    return module == nullptr ? nullptr : stored.find(module->name + name.substr(dot));
  } catch (const Error&) {  // a model that is not known has no other names
    return nullptr;
  }
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
  if (const std::string module(module_of_weight(tensor->name)); !module.empty()) {
    if (const auto parts = stored.packed(module)) {
      show_blocks(stored, module, *parts, shown);
      return shown;
    }
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
