#include "calibration/amax_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "checkpoint/safetensors.h"

namespace nibblecast {
namespace {

constexpr std::string_view kSuffix = ".input_amax";
constexpr std::string_view kExperts = "ffn.experts.";
constexpr std::string_view kTokens = "ffn.experts.tokens";
constexpr uint64_t kMaxLayer = 9999;
// Each layer has a few hundred numbers; a file far beyond that is not what its name says.
constexpr uint64_t kMaxTensorBytes = 1 << 20;

// The F32 vectors over experts, by what follows "layers.N.".
struct ExpertVector {
  std::string_view name;
  std::vector<float> ExpertAmax::*values;
};
constexpr std::array<ExpertVector, 3> kExpertVectors = {{
    {"ffn.experts.w13.input_amax", &ExpertAmax::w13},
    {"ffn.experts.w2.input_amax", &ExpertAmax::w2},
    {"ffn.experts.w2.input_amax_weighted", &ExpertAmax::w2_weighted},
}};

std::string layer_prefix(uint64_t layer) { return fmt::format("layers.{}.", layer); }

// ---- writing

// Collects tensors and their bytes, one behind the other.
class Builder {
 public:
  template <class T>
  void add(std::string name, Dtype dtype, Shape shape, std::span<const T> values) {
    Tensor& tensor = tensors_.emplace_back();
    tensor.name = std::move(name);
    tensor.dtype = dtype;
    tensor.shape = std::move(shape);
    tensor.offset = data_.size();
    tensor.size_bytes = values.size_bytes();
    data_.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  }

  std::string file(const std::map<std::string, std::string>& metadata) const {
    return write_safetensors_header(tensors_, metadata) + data_;
  }

 private:
  std::vector<Tensor> tensors_;
  std::string data_;
};

void add_tokens(Builder& builder, const LayerAmax& layer) {
  const auto& tokens = layer.experts.tokens;
  if (tokens.empty()) return;
  builder.add<int64_t>(layer_prefix(layer.layer) + std::string(kTokens), Dtype::kI64, {tokens.size()},
                       tokens);
}

void add_amax(Builder& builder, const LayerAmax& layer) {
  for (const auto& [module, amax] : layer.linears) {
    builder.add<float>(module + std::string(kSuffix), Dtype::kF32, {}, std::span(&amax, 1));
  }
  for (const ExpertVector& vector : kExpertVectors) {
    const std::vector<float>& values = layer.experts.*vector.values;
    if (values.empty()) continue;
    builder.add<float>(layer_prefix(layer.layer) + std::string(vector.name), Dtype::kF32, {values.size()},
                       values);
  }
}

// ---- reading

struct LayerName {
  uint64_t layer = 0;
  std::string_view rest;  // what follows "layers.N."
};

std::optional<LayerName> parse_layer(std::string_view name) {
  constexpr std::string_view kLayers = "layers.";
  if (!name.starts_with(kLayers)) return std::nullopt;
  name.remove_prefix(kLayers.size());
  LayerName parsed;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), parsed.layer);
  const auto digits = static_cast<size_t>(end - name.data());
  const bool is_canonical = digits == 1 || name[0] != '0';
  if (error != std::errc() || !is_canonical || parsed.layer > kMaxLayer) return std::nullopt;
  if (digits == name.size() || name[digits] != '.') return std::nullopt;
  parsed.rest = name.substr(digits + 1);
  return parsed;
}

class Reader {
 public:
  Reader(File& file, const SafetensorsHeader& header) : file_(file), header_(header) {}

  std::vector<LayerAmax> read() {
    for (const Tensor& tensor : header_.tensors) read_tensor(tensor);
    std::vector<LayerAmax> layers;
    for (auto& [number, layer] : layers_) layers.push_back(std::move(layer));
    return layers;
  }

 private:
  [[noreturn]] void fail(const Tensor& tensor, const std::string& problem, Detail detail = {},
                         uint64_t byte = 0) const {
    throw Error(ErrorKind::kBadInput,
                {.file = file_.path(), .tensor = tensor.name, .offset = tensor.offset + byte}, problem,
                std::move(detail));
  }

  void read_tensor(const Tensor& tensor) {
    const auto name = parse_layer(tensor.name);
    if (!name) fail_name(tensor);
    LayerAmax& layer = layers_[name->layer];
    layer.layer = name->layer;
    if (name->rest == kTokens) {
      layer.experts.tokens = read_vector<int64_t>(tensor, Dtype::kI64);
      return;
    }
    for (const ExpertVector& vector : kExpertVectors) {
      if (name->rest != vector.name) continue;
      layer.experts.*vector.values = read_vector<float>(tensor, Dtype::kF32);
      return;
    }
    const bool is_linear = name->rest.ends_with(kSuffix) && name->rest.size() > kSuffix.size() &&
                           !name->rest.starts_with(kExperts);
    if (!is_linear) fail_name(tensor);
    const std::string module = tensor.name.substr(0, tensor.name.size() - kSuffix.size());
    layer.linears[module] = read_scalar(tensor);
  }

  [[noreturn]] void fail_name(const Tensor& tensor) const {
    fail(tensor, "no name of an amax file",
         {.expected = "layers.N.<module>.input_amax, or one of the experts' four vectors",
          .hint = "see docs/formats/amax.md"});
  }

  float read_scalar(const Tensor& tensor) {
    check_kind(tensor, Dtype::kF32, tensor.shape.empty(), "[]");
    return read_values<float>(tensor)[0];
  }

  template <class T>
  std::vector<T> read_vector(const Tensor& tensor, Dtype dtype) {
    check_kind(tensor, dtype, tensor.shape.size() == 1 && tensor.shape[0] > 0, "[experts]");
    check_experts(tensor);
    return read_values<T>(tensor);
  }

  void check_kind(const Tensor& tensor, Dtype dtype, bool shape_fits, const char* shape) const {
    if (tensor.dtype == dtype && shape_fits && tensor.size_bytes <= kMaxTensorBytes) return;
    fail(tensor, "wrong dtype or shape",
         {.expected = fmt::format("{} {}", dtype_name(dtype), shape),
          .found = fmt::format("{} {}", dtype_name(tensor.dtype), shape_text(tensor.shape))});
  }

  // All vectors of one layer are as long as the first of them.
  void check_experts(const Tensor& tensor) {
    const uint64_t layer = parse_layer(tensor.name)->layer;
    const auto [entry, is_first] = experts_.try_emplace(layer, tensor.shape[0]);
    if (entry->second == tensor.shape[0]) return;
    fail(tensor, "vectors of one layer differ in length",
         {.expected = fmt::format("{} experts", entry->second), .found = std::to_string(tensor.shape[0])});
  }

  template <class T>
  std::vector<T> read_values(const Tensor& tensor) {
    std::vector<T> values(tensor.size_bytes / sizeof(T));
    file_.read(tensor.offset, std::as_writable_bytes(std::span(values)));
    for (size_t i = 0; i < values.size(); ++i) {
      bool is_valid = values[i] >= 0;  // false for NaN
      if constexpr (std::is_same_v<T, float>) is_valid = is_valid && std::isfinite(values[i]);
      if (is_valid) continue;
      fail(tensor, fmt::format("value {} is none", i),
           {.expected = "finite, not negative", .found = fmt::format("{}", values[i])}, i * sizeof(T));
    }
    return values;
  }

  File& file_;
  const SafetensorsHeader& header_;
  std::map<uint64_t, LayerAmax> layers_;
  std::map<uint64_t, uint64_t> experts_;  // layer -> length of its vectors
};

}  // namespace

const LayerAmax* find_layer(const std::vector<LayerAmax>& layers, uint64_t layer) {
  const auto found = std::ranges::find(layers, layer, &LayerAmax::layer);
  return found == layers.end() ? nullptr : &*found;
}

bool knows_experts(const ExpertAmax& experts) {
  return !experts.tokens.empty() || !experts.w13.empty() || !experts.w2.empty() ||
         !experts.w2_weighted.empty();
}

std::vector<uint64_t> experts_without_tokens(const ExpertAmax& experts) {
  std::vector<uint64_t> starved;
  for (size_t expert = 0; expert < experts.tokens.size(); ++expert) {
    if (experts.tokens[expert] == 0) starved.push_back(expert);
  }
  if (!experts.tokens.empty()) return starved;
  const std::vector<float>& amax = !experts.w13.empty()  ? experts.w13
                                   : !experts.w2.empty() ? experts.w2
                                                         : experts.w2_weighted;
  for (size_t expert = 0; expert < amax.size(); ++expert) {
    if (amax[expert] == 0) starved.push_back(expert);
  }
  return starved;
}

std::vector<uint64_t> contradicting_experts(const ExpertAmax& experts) {
  std::vector<uint64_t> found;
  for (size_t expert = 0; expert < experts.tokens.size(); ++expert) {
    const bool has_tokens = experts.tokens[expert] > 0;
    bool contradicts = false;
    for (const ExpertVector& vector : kExpertVectors) {
      const std::vector<float>& amax = experts.*vector.values;
      contradicts |= !amax.empty() && (amax[expert] > 0) != has_tokens;
    }
    if (contradicts) found.push_back(expert);
  }
  return found;
}

void write_amax(FileSystem& files, const std::filesystem::path& path, const AmaxFile& amax) {
  Builder builder;
  // The 8-byte values first: then all are aligned.
  for (const LayerAmax& layer : amax.layers) add_tokens(builder, layer);
  for (const LayerAmax& layer : amax.layers) add_amax(builder, layer);
  auto metadata = amax.metadata;
  metadata["format"] = kAmaxFormat;
  write_text_durably(files, path, builder.file(metadata));
}

AmaxFile read_amax(FileSystem& files, const std::filesystem::path& path) {
  const auto file = files.open(path, Access::kRead);
  const SafetensorsHeader header = read_safetensors_header(*file);
  AmaxFile amax{.metadata = header.metadata, .layers = {}};
  const auto format = amax.metadata.find("format");
  if (format == amax.metadata.end() || format->second != kAmaxFormat) {
    throw Error(ErrorKind::kBadInput, {.file = path.string()}, "not an amax file",
                {.expected = fmt::format("metadata 'format' = '{}'", kAmaxFormat),
                 .found = format == amax.metadata.end() ? "none" : "'" + format->second + "'",
                 .hint = "`nibblecast calibrate` makes one"});
  }
  amax.metadata.erase(format);
  amax.layers = Reader(*file, header).read();
  return amax;
}

}  // namespace nibblecast
