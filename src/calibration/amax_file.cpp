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

constexpr std::string_view kFirstFormat = "nibblecast.amax/1";
constexpr std::string_view kSuffix = ".amax";
constexpr std::string_view kMomentSuffix = ".second_moment";
constexpr std::string_view kTokens = "experts.tokens";
constexpr uint64_t kMaxLayer = 9999;
// Each layer has a few hundred numbers; a file far beyond that is not what its name says.
constexpr uint64_t kMaxTensorBytes = 1 << 20;
constexpr uint64_t kMaxMomentBytes = 1 << 30;  // a number a channel, of each expert

// Version 1: what follows "layers.N." -> the tap. Linears of one tap had an entry each.
constexpr std::pair<std::string_view, std::string_view> kFirstNames[] = {
    {"attn.wq_a.input_amax", "attn.in"},
    {"attn.wkv.input_amax", "attn.in"},
    {"attn.compressor.wkv.input_amax", "attn.in"},
    {"attn.compressor.wgate.input_amax", "attn.in"},
    {"attn.indexer.weights_proj.input_amax", "attn.in"},
    {"attn.indexer.compressor.wkv.input_amax", "attn.in"},
    {"attn.indexer.compressor.wgate.input_amax", "attn.in"},
    {"attn.wq_b.input_amax", "attn.q_rank"},
    {"attn.indexer.wq_b.input_amax", "attn.q_rank"},
    {"attn.wo_a.input_amax", "attn.out"},
    {"attn.wo_b.input_amax", "attn.out_rank"},
    {"ffn.gate.input_amax", "ffn.in"},
    {"ffn.shared_experts.w1.input_amax", "ffn.in"},
    {"ffn.shared_experts.w3.input_amax", "ffn.in"},
    {"ffn.shared_experts.w2.input_amax", "shared.mid"},
    {"ffn.experts.w13.input_amax", "experts.in"},
    {"ffn.experts.w2.input_amax", "experts.mid"},
    {"ffn.experts.w2.input_amax_weighted", "experts.mid_weighted"},
};
constexpr std::string_view kFirstTokens = "ffn.experts.tokens";

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
  if (layer.tokens.empty()) return;
  builder.add<int64_t>(layer_prefix(layer.layer) + std::string(kTokens), Dtype::kI64, {layer.tokens.size()},
                       layer.tokens);
}

void add_amax(Builder& builder, const LayerAmax& layer) {
  for (const auto& [tap, values] : layer.taps) {
    const bool per_expert = is_of_experts(tap);
    builder.add<float>(layer_prefix(layer.layer) + tap + std::string(kSuffix), Dtype::kF32,
                       per_expert ? Shape{values.size()} : Shape{}, values);
  }
}

void add_moments(Builder& builder, const LayerAmax& layer) {
  for (const auto& [tap, values] : layer.second_moments) {
    const uint64_t experts = is_of_experts(tap) ? layer.tokens.size() : 0;
    builder.add<float>(layer_prefix(layer.layer) + tap + std::string(kMomentSuffix), Dtype::kF32,
                       experts == 0 ? Shape{values.size()} : Shape{experts, values.size() / experts}, values);
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
  Reader(File& file, const SafetensorsHeader& header, bool first)
      : file_(file), header_(header), is_first_(first) {}

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
    if (name->rest == (is_first_ ? kFirstTokens : kTokens)) {
      layer.tokens = read_vector<int64_t>(tensor, Dtype::kI64);
      return;
    }
    if (!is_first_ && name->rest.ends_with(kMomentSuffix)) return read_moments(tensor, *name, layer);
    const std::string tap = tap_of(name->rest);
    if (tap.empty()) fail_name(tensor);
    const bool per_expert = is_of_experts(tap);
    const std::vector<float> values =
        per_expert ? read_vector<float>(tensor, Dtype::kF32) : std::vector<float>{read_scalar(tensor)};
    std::vector<float>& kept = layer.taps[tap];
    kept.resize(values.size());
    std::ranges::transform(values, kept, kept.begin(), [](float a, float b) { return std::max(a, b); });
  }

  void read_moments(const Tensor& tensor, const LayerName& name, LayerAmax& layer) {
    const std::string tap(name.rest.substr(0, name.rest.size() - kMomentSuffix.size()));
    if (tap.empty()) fail_name(tensor);
    const bool per_expert = is_of_experts(tap);
    const size_t dimensions = per_expert ? 2 : 1;
    check_kind(tensor, Dtype::kF32, tensor.shape.size() == dimensions && tensor.size_bytes > 0,
               per_expert ? "[experts, channels]" : "[channels]", kMaxMomentBytes);
    if (per_expert) check_experts(tensor);
    layer.second_moments[tap] = read_values<float>(tensor);
  }

  // Of what follows "layers.N."; empty where it names none.
  std::string tap_of(std::string_view rest) const {
    if (is_first_) {
      const auto found =
          std::ranges::find(kFirstNames, rest, &std::pair<std::string_view, std::string_view>::first);
      return found == std::end(kFirstNames) ? "" : std::string(found->second);
    }
    if (!rest.ends_with(kSuffix)) return "";
    return std::string(rest.substr(0, rest.size() - kSuffix.size()));
  }

  [[noreturn]] void fail_name(const Tensor& tensor) const {
    fail(tensor, "no name of an amax file",
         {.expected = is_first_ ? "layers.N.<module>.input_amax of DeepSeek-V4's modules"
                                : "layers.N.<tap>.amax or .second_moment",
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

  void check_kind(const Tensor& tensor, Dtype dtype, bool shape_fits, const char* shape,
                  uint64_t most_bytes = kMaxTensorBytes) const {
    if (tensor.dtype == dtype && shape_fits && tensor.size_bytes <= most_bytes) return;
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
  const bool is_first_;                   // version 1
  std::map<uint64_t, uint64_t> experts_;  // layer -> length of its vectors
};

}  // namespace

const LayerAmax* find_layer(const std::vector<LayerAmax>& layers, uint64_t layer) {
  const auto found = std::ranges::find(layers, layer, &LayerAmax::layer);
  return found == layers.end() ? nullptr : &*found;
}

bool knows_experts(const LayerAmax& layer) {
  return !layer.tokens.empty() ||
         std::ranges::any_of(layer.taps, [](const auto& tap) { return is_of_experts(tap.first); });
}

std::vector<uint64_t> experts_without_tokens(const LayerAmax& layer) {
  std::vector<uint64_t> starved;
  for (size_t expert = 0; expert < layer.tokens.size(); ++expert) {
    if (layer.tokens[expert] == 0) starved.push_back(expert);
  }
  if (!layer.tokens.empty()) return starved;
  const auto first =
      std::ranges::find_if(layer.taps, [](const auto& tap) { return is_of_experts(tap.first); });
  if (first == layer.taps.end()) return starved;
  for (size_t expert = 0; expert < first->second.size(); ++expert) {
    if (first->second[expert] == 0) starved.push_back(expert);
  }
  return starved;
}

std::vector<uint64_t> contradicting_experts(const LayerAmax& layer) {
  std::vector<uint64_t> found;
  for (size_t expert = 0; expert < layer.tokens.size(); ++expert) {
    const bool has_tokens = layer.tokens[expert] > 0;
    const auto contradicts = [&](const auto& tap) {
      return is_of_experts(tap.first) && (tap.second[expert] > 0) != has_tokens;
    };
    if (std::ranges::any_of(layer.taps, contradicts)) found.push_back(expert);
  }
  return found;
}

void write_amax(FileSystem& files, const std::filesystem::path& path, const AmaxFile& amax) {
  Builder builder;
  // The 8-byte values first: then all are aligned.
  for (const LayerAmax& layer : amax.layers) add_tokens(builder, layer);
  for (const LayerAmax& layer : amax.layers) add_amax(builder, layer);
  for (const LayerAmax& layer : amax.layers) add_moments(builder, layer);
  auto metadata = amax.metadata;
  metadata["format"] = kAmaxFormat;
  write_text_durably(files, path, builder.file(metadata));
}

AmaxFile read_amax(FileSystem& files, const std::filesystem::path& path) {
  const auto file = files.open(path, Access::kRead);
  const SafetensorsHeader header = read_safetensors_header(*file);
  AmaxFile amax{.metadata = header.metadata, .layers = {}};
  const auto format = amax.metadata.find("format");
  const bool is_first = format != amax.metadata.end() && format->second == kFirstFormat;
  if (format == amax.metadata.end() || (format->second != kAmaxFormat && !is_first)) {
    throw Error(ErrorKind::kBadInput, {.file = path.string()}, "not an amax file",
                {.expected = fmt::format("metadata 'format' = '{}'", kAmaxFormat),
                 .found = format == amax.metadata.end() ? "none" : "'" + format->second + "'",
                 .hint = "`nibblecast calibrate` makes one"});
  }
  amax.metadata.erase(format);
  amax.layers = Reader(*file, header, is_first).read();
  return amax;
}

}  // namespace nibblecast
