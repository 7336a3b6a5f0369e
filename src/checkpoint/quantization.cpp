#include "checkpoint/quantization.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

#include "base/error.h"
#include "checkpoint/printable.h"

namespace nibblecast {
namespace {

// ---- config.json ----

constexpr std::array<std::string_view, 2> kSectionKeys = {"quantization_config", "compression_config"};

// What config.json may say of weights that are told by their tensors.
constexpr std::array<std::string_view, 6> kMethods = {
    "fp8", "deepseek_v4_fp8", "modelopt", "modelopt_fp4", "modelopt_mixed", "compressed-tensors"};
constexpr std::string_view kPackQuantized = "pack-quantized";
constexpr std::array<std::string_view, 8> kFormats = {
    "dense",           "float-quantized", "naive-quantized",      "mixed-precision",
    "mxfp8-quantized", kPackQuantized,    "mxfp4-pack-quantized", "nvfp4-pack-quantized"};
constexpr std::array<std::string_view, 7> kAlgorithms = {
    "FP8", "FP8_PB_WO", "FP8_PER_CHANNEL_PER_TOKEN", "MXFP8", "NVFP4", "W4A16_NVFP4", "MIXED_PRECISION"};

void collect_sections(const Json& value, const std::string& prefix, std::vector<QuantizationSection>& found) {
  if (!value.is_structured()) return;
  for (const auto& [key, item] : value.items()) {
    const bool is_section = value.is_object() && std::ranges::find(kSectionKeys, key) != kSectionKeys.end();
    if (!is_section)
      collect_sections(item, prefix + key + ".", found);
    else if (!item.is_null())
      found.push_back({prefix + key, &item});
  }
}

// "NAME.KEY is "awq"" where the value is there and none of those known.
template <size_t N>
std::string foreign_value(const std::string& name, const Json& object, const char* key,
                          const std::array<std::string_view, N>& known) {
  if (!object.is_object()) return {};
  const auto value = object.find(key);
  if (value == object.end() || value->is_null()) return {};
  if (value->is_string() &&
      std::ranges::find(known, value->template get_ref<const std::string&>()) != known.end())
    return {};
  return printable(name) + "." + key + " is " +
         printable(value->dump(-1, ' ', true, Json::error_handler_t::replace));
}

// Of compressed-tensors: f(name, group) for each group of modules, until it returns something.
template <class F>
std::string for_groups(const QuantizationSection& section, const F& f) {
  if (!section.value->is_object()) return {};
  const auto groups = section.value->find("config_groups");
  if (groups == section.value->end() || !groups->is_object()) return {};
  for (const auto& [name, group] : groups->items()) {
    if (!group.is_object()) continue;
    if (std::string said = f(section.name + ".config_groups." + name, group); !said.empty()) return said;
  }
  return {};
}

// "NAME.KEY is 8" where a group's weights are integers and it is none of the values that are read. The value
// of an absent key is null.
std::string foreign_integers(const std::string& name, const Json& group) {
  const Json weights = group.value("weights", Json());
  if (!weights.is_object() || weights.value("type", Json("int")) != "int") return {};
  const struct {
    const char* key;
    std::vector<Json> known;
  } kRead[] = {{"num_bits", {4}},
               {"symmetric", {true, nullptr}},  // null: what compressed-tensors takes then
               {"strategy", {"group", "channel", nullptr}},
               {"dynamic", {false, nullptr}},
               {"actorder", {nullptr, false}},
               {"block_structure", {nullptr}}};
  for (const auto& [key, known] : kRead) {
    const Json value = weights.value(key, Json());
    if (std::ranges::find(known, value) != known.end()) continue;
    return printable(name) + ".weights." + key + " is " +
           printable(value.dump(-1, ' ', true, Json::error_handler_t::replace));
  }
  return {};
}

// Of compressed-tensors' groups, each of which may have a format.
std::string foreign_group(const QuantizationSection& section) {
  return for_groups(section, [](const std::string& name, const Json& group) {
    std::string stated = foreign_value(name, group, "format", kFormats);
    return stated.empty() ? foreign_integers(name, group) : stated;
  });
}

// config.json speaks of integers that are packed as they are read.
bool states_packed_integers(const Json& config) {
  for (const QuantizationSection& section : quantization_sections(config)) {
    const std::string found = for_groups(section, [&](const std::string&, const Json& group) -> std::string {
      const Json weights = group.value("weights", Json());
      const Json format = group.value("format", section.value->value("format", Json()));
      const bool is_int = weights.is_object() && weights.value("type", Json("int")) == "int";
      return is_int && format == kPackQuantized ? "yes" : "";
    });
    if (!found.empty()) return true;
  }
  return false;
}

// gpt-oss' MXFP4, which its table reads.
bool reads_blocks(const Json& config) { return at_or_null(config, "model_type") == "gpt_oss"; }

std::string foreign_statement(const Json& config) {
  for (const QuantizationSection& section : quantization_sections(config)) {
    if (!section.value->is_object()) continue;
    if (reads_blocks(config) && at_or_null(*section.value, "quant_method") == "mxfp4") continue;
    for (std::string stated :
         {foreign_value(section.name, *section.value, "quant_method", kMethods),
          foreign_value(section.name, *section.value, "format", kFormats),
          foreign_value(section.name, *section.value, "quant_algo", kAlgorithms), foreign_group(section)}) {
      if (!stated.empty()) return stated;
    }
  }
  return {};
}

// ---- tensors ----

enum class Stored { kAny, kInteger, kWide, kBytes };  // wide: integers of 16 bits and more, but not I64

bool is_wide(Dtype dtype) {
  return dtype == Dtype::kI16 || dtype == Dtype::kU16 || dtype == Dtype::kI32 || dtype == Dtype::kU32;
}

bool is_stored(Dtype dtype, Stored stored) {
  const bool is_bytes = dtype == Dtype::kI8 || dtype == Dtype::kU8 || dtype == Dtype::kF4;
  switch (stored) {
    case Stored::kAny:
      return true;
    case Stored::kInteger:
      return is_bytes || is_wide(dtype) || dtype == Dtype::kI64 || dtype == Dtype::kU64;
    case Stored::kWide:
      return is_wide(dtype);
    case Stored::kBytes:
      return is_bytes;
  }
  return false;
}

// What the last words of a tensor's name give away.
struct Sign {
  std::string_view ending;
  Stored stored;
  std::string_view words;
};
constexpr std::string_view kGptq = "integers packed by AWQ or GPTQ";
constexpr std::string_view kPackedInts =
    "integers packed in 32-bit words, as compressed-tensors stores them (pack-quantized)";
constexpr std::string_view kPackedBytes =
    "packed bytes, as compressed-tensors names them, without FP4's scales";
constexpr std::string_view kPackedWeight = ".weight_packed", kGlobalScale = ".weight_global_scale",
                           kWeightScale = ".weight_scale", kWeightShape = ".weight_shape";
constexpr std::string_view kBitsAndBytes = "weights quantized by bitsandbytes";
constexpr std::string_view kBlocks = "MXFP4 in blocks, as gpt-oss stores it";
constexpr std::string_view kExllama = "weights quantized by ExLlama";
constexpr std::string_view kQuanto = "weights quantized by Quanto or torchao";
constexpr Sign kSigns[] = {
    {"scale_inv", Stored::kAny, "FP8 with inverse scales, of stacked experts"},
    {"weight_packed", Stored::kWide, kPackedInts},
    {"weight_packed", Stored::kAny, kPackedBytes},
    {"weight_zero_point", Stored::kAny, "integers with zero points, as compressed-tensors stores them"},
    {"weight_shape", Stored::kInteger, kPackedInts},
    {"bitmask", Stored::kBytes, "sparse weights of compressed-tensors"},
    {"weight_g_idx", Stored::kAny, "integers in an order of activations, as compressed-tensors stores them"},
    {"qweight", Stored::kInteger, kGptq},
    {"qzeros", Stored::kInteger, kGptq},
    {"g_idx", Stored::kInteger, kGptq},
    {"absmax", Stored::kAny, kBitsAndBytes},
    {"quant_map", Stored::kAny, kBitsAndBytes},
    {"SCB", Stored::kAny, kBitsAndBytes},
    {"weight_format", Stored::kBytes, kBitsAndBytes},
    {"W_q", Stored::kAny, "weights quantized by HQQ"},
    {"codes", Stored::kInteger, "codes of AQLM"},
    {"Qidxs", Stored::kInteger, "codes of QuIP#"},
    {"q_weight", Stored::kInteger, kExllama},
    {"trellis", Stored::kInteger, kExllama},
    {"_blocks", Stored::kBytes, kBlocks},
    {"_scales", Stored::kBytes, kBlocks},
    {"_weight_scale", Stored::kAny, "stacked experts with one scale for each block, as ModelOpt stores them"},
    {"pre_quant_scale", Stored::kAny, "weights smoothed by AWQ, as ModelOpt stores them"},
    {"weight_scales", Stored::kAny, "weights quantized by EETQ"},
    {"input_scale_ub", Stored::kAny, "FP8 as FBGEMM stores it"},
    {"weight._data", Stored::kAny, kQuanto},
    {"weight._packed", Stored::kAny, kQuanto},
    {"qdata", Stored::kAny, kQuanto},
    {"weight", Stored::kWide, "a weight of packed integers"},
};

// Words in the middle of a name.
constexpr std::pair<std::string_view, std::string_view> kInside[] = {
    {".quant_state.", kBitsAndBytes},
    {".weight_quantizer.", "a quantizer's state, as Quark and fake quantization leave it"},
};

// "X.qweight" and "X_qweight" end with "qweight", "X.myqweight" does not.
bool ends_with_word(std::string_view name, std::string_view word) {
  if (!name.ends_with(word)) return false;
  name.remove_suffix(word.size());
  return name.empty() || word.front() == '_' || name.back() == '.' || name.back() == '_';
}

std::string_view sign_of(const Tensor& tensor) {
  if (tensor.name.ends_with(".weight_scale_inv")) return {};  // weights/container.h
  for (const Sign& sign : kSigns) {
    if (ends_with_word(tensor.name, sign.ending) && is_stored(tensor.dtype, sign.stored)) return sign.words;
  }
  for (const auto& [part, words] : kInside) {
    if (tensor.name.find(part) != std::string::npos) return words;
  }
  return {};
}

// Tables of integers, whatever lies beside them.
bool is_table(std::string_view name) {
  constexpr std::string_view kTables[] = {"tid2eid", "index", "indices", "ids", "table"};
  return std::ranges::any_of(kTables, [&](std::string_view word) { return ends_with_word(name, word); });
}

std::string_view module_of(std::string_view name) {
  const size_t dot = name.rfind('.');
  return dot == std::string_view::npos ? std::string_view() : name.substr(0, dot);
}

// Whatever packs weights into words keeps their scales beside them.
template <class F>
std::optional<ForeignFormat> find_words_beside_scales(std::span<const Tensor> tensors, const F& is_known) {
  std::set<std::string_view> scaled;
  for (const Tensor& tensor : tensors) {
    const std::string_view module = module_of(tensor.name);
    if (!module.empty() && tensor.name.find("scale", module.size()) != std::string::npos)
      scaled.insert(module);
  }
  for (const Tensor& tensor : tensors) {
    if (!is_wide(tensor.dtype) || tensor.shape.size() < 2 || is_table(tensor.name)) continue;
    if (is_known(tensor)) continue;
    if (!scaled.contains(module_of(tensor.name))) continue;
    return ForeignFormat{.tensor = &tensor, .words = "integers beside scales", .stated = {}};
  }
  return std::nullopt;
}

// Modules whose packed bytes have scales of FP4 (weights/container.h): NVFP4's, or a byte a block.
std::set<std::string_view> packed_fp4(std::span<const Tensor> tensors) {
  std::set<std::string_view> modules;
  for (const Tensor& tensor : tensors) {
    const bool is_byte = tensor.dtype == Dtype::kU8 || tensor.dtype == Dtype::kF8E8M0;
    if (tensor.name.ends_with(kGlobalScale) || (tensor.name.ends_with(kWeightScale) && is_byte))
      modules.insert(module_of(tensor.name));
  }
  return modules;
}

std::optional<ForeignFormat> find_foreign_tensor(const Json& config, std::span<const Tensor> tensors) {
  const std::set<std::string_view> fp4 = packed_fp4(tensors);
  const bool reads_integers = states_packed_integers(config);
  const bool has_blocks = reads_blocks(config);
  const auto is_known = [&](const Tensor& tensor) {
    const bool is_block = tensor.name.ends_with("_blocks") || tensor.name.ends_with("_scales");
    if (has_blocks && is_block && tensor.dtype == Dtype::kU8) return true;
    if (tensor.name.ends_with(kPackedWeight) && tensor.dtype == Dtype::kU8)
      return fp4.contains(module_of(tensor.name));
    return reads_integers && (tensor.name.ends_with(kWeightShape) ||
                              (tensor.name.ends_with(kPackedWeight) && tensor.dtype == Dtype::kI32));
  };
  for (const Tensor& tensor : tensors) {
    if (is_known(tensor)) continue;
    const std::string_view words = sign_of(tensor);
    if (!words.empty()) return ForeignFormat{.tensor = &tensor, .words = std::string(words), .stated = {}};
  }
  return find_words_beside_scales(tensors, is_known);
}

}  // namespace

std::vector<QuantizationSection> quantization_sections(const Json& config) {
  std::vector<QuantizationSection> found;
  collect_sections(config, "", found);
  std::ranges::stable_sort(found, {}, [](const QuantizationSection& section) {
    return std::ranges::count(section.name, '.');  // the outermost first
  });
  return found;
}

std::string ForeignFormat::text() const {
  std::string text;
  if (tensor != nullptr)
    text = printable(tensor->name) + ": " + words + " (" + std::string(dtype_name(tensor->dtype)) + ")";
  if (!stated.empty()) text += (text.empty() ? "config.json's " : "; config.json's ") + stated;
  return text;
}

std::optional<ForeignFormat> find_foreign_format(const Json& config, std::span<const Tensor> tensors) {
  std::optional<ForeignFormat> found = find_foreign_tensor(config, tensors);
  std::string stated = foreign_statement(config);
  if (!stated.empty()) {
    if (!found) found.emplace();
    found->stated = std::move(stated);
  }
  return found;
}

void refuse_foreign_format(const Checkpoint& source) {
  const std::optional<ForeignFormat> foreign = find_foreign_format(source.config(), source.tensors());
  if (!foreign) return;
  const std::string file =
      foreign->tensor != nullptr ? source.where(*foreign->tensor).file : source.folder().string();
  throw Error(
      ErrorKind::kUnsupported, {.file = file},
      "its weights are quantized in a format that this version does not read",
      {.expected = "plain weights, FP8, MXFP4, NVFP4, or symmetric integers of 4 bits as compressed-tensors "
                   "packs them (docs/models.md)",
       .found = foreign->text(),
       .hint = "`nibblecast inspect` shows what is there"});
}

}  // namespace nibblecast
