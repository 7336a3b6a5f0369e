// tests/model/decoder_testing.h - models of decoders with their weights in memory, random ones and those of a
// folder, and what drives a ForwardPass over them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/integers.h"
#include "checkpoint/checkpoint.h"
#include "logits_keeper.h"
#include "model/families/decoder_row.h"
#include "model/families/decoder_table.h"
#include "model/family.h"
#include "model/forward_pass.h"
#include "testing.h"

namespace nibblecast::testing {

using Rows = std::vector<std::vector<int32_t>>;

inline std::vector<int32_t> random_ids(size_t length, unsigned seed, uint64_t vocabulary) {
  std::mt19937 generator(seed);
  std::vector<int32_t> row(length);
  for (int32_t& id : row) id = static_cast<int32_t>(generator() % vocabulary);
  return row;
}

class DecoderModel {
 public:
  // All of a checkpoint.
  explicit DecoderModel(const std::filesystem::path& folder) {
    const Checkpoint checkpoint = Checkpoint::open(folder, system_files());
    model = read_model(checkpoint.config(), (folder / "config.json").string());
    TensorReader reader(checkpoint);
    for (const Tensor& tensor : checkpoint.tensors()) held_[tensor.name] = {tensor, reader.read(tensor)};
    for (const LayerTable& table : model.table.layers) split_stacks(table);
  }

  // Random weights in BF16. Names are GLM-4.5's, and Qwen3.5's of what that lacks.
  explicit DecoderModel(DecoderSpec spec, bool tied_head = false, unsigned seed = 1) : generator_(seed) {
    model.family = model.model_type = "glm4_moe";
    DecoderRow row = decoder_row("glm4_moe");
    row.moe->names.shared_gate = row.moe->hub.shared_gate = "shared_expert_gate";
    model.table = decoder_table(spec, row, tied_head);
    for (size_t layer = 0; layer < spec.layers.size(); ++layer) {
      const auto* const gqa = std::get_if<GqaSpec>(&spec.layers[layer].mixer);
      if (gqa == nullptr || !gqa->sinks) continue;
      model.table.layers[layer].plain.push_back(
          {.id = {.layer = static_cast<int32_t>(layer), .role = Role::kSinks},
           .name = "model.layers." + std::to_string(layer) + ".self_attn.sinks",
           .shape = {gqa->heads}});
    }
    model.vocabulary.size = spec.vocab;
    model.spec = std::move(spec);
    fill(model.table.globals);
    for (const LayerTable& layer : model.table.layers) fill(layer);
  }

  const DecoderSpec& spec() const { return std::get<DecoderSpec>(model.spec); }
  uint64_t layers() const { return model.layers(); }
  const std::vector<std::byte>& bytes(const std::string& name) const { return held_.at(name).bytes; }
  void spoil(const std::string& name, float value) {
    const uint16_t bits = to_bf16(value).bits;
    std::memcpy(held_.at(name).bytes.data(), &bits, sizeof bits);
  }

  // `count` values from `first` on.
  void fill(const std::string& name, float value, size_t first, size_t count) {
    const bf16 rounded = to_bf16(value);
    for (size_t i = first; i < first + count; ++i)
      std::memcpy(held_.at(name).bytes.data() + i * sizeof rounded, &rounded, sizeof rounded);
  }
  void fill(const std::string& name, float value) {
    fill(name, value, 0, held_.at(name).bytes.size() / sizeof(bf16));
  }

  // Random codes and scales instead of a linear's weight: FP8 in tiles of 128 x 128 or, with one scale, as a
  // whole, or NVFP4.
  void store(const std::string& module, StoredFormat format, bool tiles = true) {
    const Shape shape = held_.at(module + ".weight").tensor.shape;
    const bool narrow = format == StoredFormat::kNvfp4;
    const uint64_t count = shape[0] * shape[1],
                   scales = ceil_div(shape[0], 128ul) * ceil_div(shape[1], 128ul);
    put(module + ".weight", narrow ? Dtype::kU8 : Dtype::kF8E4M3,
        {shape[0], narrow ? shape[1] / 2 : shape[1]},
        codes(narrow ? count / 2 : count, narrow ? 0xff : 0x3f));
    if (narrow) {
      put(module + ".weight_scale", Dtype::kF8E4M3, {shape[0], shape[1] / 16}, codes(count / 16, 0x3f));
      put(module + ".weight_scale_2", Dtype::kF32, {}, floats(1));
    } else if (tiles) {
      put(module + ".weight_scale_inv", Dtype::kF32, {ceil_div(shape[0], 128ul), ceil_div(shape[1], 128ul)},
          floats(scales));
    } else {
      put(module + ".weight_scale", Dtype::kF32, {}, floats(1));
    }
  }
  // The same values in F32.
  void widen(const std::string& module) {
    const StoredLinear weight = linear(module);
    std::vector<float> values(rows_of(weight) * cols_of(weight));
    dequantize_rows_ref(weight, 0, rows_of(weight), values.data(), cols_of(weight));
    const auto bytes = std::as_bytes(std::span(values));
    const Shape shape = {rows_of(weight), cols_of(weight)};
    for (const char* part : {".weight_scale", ".weight_scale_2", ".weight_scale_inv"})
      held_.erase(module + part);
    put(module + ".weight", Dtype::kF32, shape, {bytes.begin(), bytes.end()});
  }

  // Of a tensor in BF16 or F32.
  std::vector<float> values(const std::string& name) const {
    const Held& held = held_.at(name);
    const uint64_t count = held.bytes.size() / dtype_bytes(held.tensor.dtype);
    std::vector<float> values(count);
    if (held.tensor.dtype == Dtype::kF32)
      dequantize_rows_ref(F32View{held.bytes.data(), 1, count}, 0, 1, values.data(), count);
    else
      dequantize_rows_ref(Bf16View{held.bytes.data(), 1, count}, 0, 1, values.data(), count);
    return values;
  }

  std::string embedding_name() const {
    return module(model.table.globals, {.role = Role::kEmbedding}) + ".weight";
  }
  std::string head_name() const {
    return model.table.tied_head ? embedding_name()
                                 : module(model.table.globals, {.role = Role::kHead}) + ".weight";
  }
  static std::string module(const LayerTable& table, ModuleId id) {
    for (const WeightModule& each : table.modules) {
      id.layer = each.id.layer;
      if (each.id == id) return each.name;
    }
    ADD_FAILURE() << "no such module";
    return "";
  }

  void embed(ForwardPass& pass) const {
    const uint64_t first = spec().vocab / 3, row_bytes = spec().hidden * sizeof(bf16);
    const std::span<const std::byte> bytes = this->bytes(embedding_name());
    pass.embed(0, first, bytes.first(first * row_bytes));
    pass.embed(first, spec().vocab - first, bytes.subspan(first * row_bytes));
  }

  // `piece`: bytes of a call of take().
  void take(ForwardPass& pass, uint64_t layer, size_t piece = 4096) const {
    const std::vector<Tensor> dense = dense_tensors(layer);
    pass.expect_layer(layer, dense);
    for (const Tensor& tensor : dense) {
      const std::span<const std::byte> all = bytes(tensor.name);
      for (size_t begin = 0; begin < all.size(); begin += piece)
        pass.take(tensor.name, begin, all.subspan(begin, std::min(piece, all.size() - begin)), nullptr);
    }
  }

  LayerAmax run_layer(ForwardPass& pass, uint64_t layer, size_t piece = 4096) const {
    take(pass, layer, piece);
    pass.begin_layer();
    for (uint64_t mlp = 0; mlp < model.table.layers[layer].mlps(); ++mlp)
      pass.expert(mlp, stored_mlp(model.table.layers[layer], mlp), nullptr);
    pass.end_layer();
    return pass.layer_amax();
  }

  std::vector<LayerAmax> run(ForwardPass& pass, size_t piece = 4096) const {
    embed(pass);
    std::vector<LayerAmax> amax;
    for (uint64_t layer = 0; layer < layers(); ++layer) amax.push_back(run_layer(pass, layer, piece));
    return amax;
  }

  RowLosses run_head(ForwardPass& pass, LogitsSink sink = {}, size_t piece = 3333) const {
    take(pass, layers(), piece);
    pass.begin_head(std::move(sink));
    const std::span<const std::byte> all = bytes(head_name());
    for (size_t begin = 0; begin < all.size(); begin += piece)
      pass.head(begin, all.subspan(begin, std::min(piece, all.size() - begin)), nullptr);
    return pass.row_losses();
  }

  Model model;

 private:
  struct Held {
    Tensor tensor;
    std::vector<std::byte> bytes;
  };

  // Experts by themselves, from the tensors that hold all of a layer.
  void split_stacks(const LayerTable& table) {
    for (const WeightModule& module : table.modules) {
      const bool is_down = module.id.role == Role::kDown;
      const auto stack = held_.find(is_down ? table.stacks.down : table.stacks.gate_up);
      if (!module.is_routed_expert() || stack == held_.end()) continue;
      const size_t size = module.shape[0] * module.shape[1] * sizeof(bf16);
      const size_t parts = is_down ? 1 : 2, part = module.id.role == Role::kUp ? 1 : 0;
      const auto begin =
          stack->second.bytes.begin() +
          static_cast<ptrdiff_t>((static_cast<size_t>(module.id.expert) * parts + part) * size);
      put(module.name + ".weight", Dtype::kBF16, module.shape, {begin, begin + static_cast<ptrdiff_t>(size)});
    }
  }

  void fill(const LayerTable& table) {
    for (const WeightModule& module : table.modules) {
      const float size = 1.0f / std::sqrt(static_cast<float>(module.shape[1]));
      add(module.name + ".weight", module.shape, 0, module.kind == ModuleKind::kEmbedding ? 1.0f : size);
    }
    for (const PlainTensor& plain : table.plain) {
      const bool norm = plain.id.role == Role::kInputNorm || plain.id.role == Role::kFfnNorm ||
                        plain.id.role == Role::kFinalNorm || plain.id.role == Role::kQNorm ||
                        plain.id.role == Role::kKNorm || plain.id.role == Role::kQRankNorm ||
                        plain.id.role == Role::kKvRankNorm || plain.id.role == Role::kOutNorm ||
                        plain.name.ends_with("indexer.k_norm.weight");
      add(plain.name, plain.shape, norm ? 1.0f : 0.0f, 0.25f);
    }
  }
  void put(const std::string& name, Dtype dtype, const Shape& shape, std::vector<std::byte> bytes) {
    held_[name] = {{.name = name, .dtype = dtype, .shape = shape, .size_bytes = bytes.size()},
                   std::move(bytes)};
  }
  std::vector<std::byte> codes(uint64_t count, unsigned mask) {
    std::vector<std::byte> bytes(count);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(generator_() & mask);
    return bytes;
  }
  std::vector<std::byte> floats(uint64_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = 0.01f + 1e-6f * static_cast<float>(generator_() % 10000);
    const auto bytes = std::as_bytes(std::span(values));
    return {bytes.begin(), bytes.end()};
  }
  void add(const std::string& name, const Shape& shape, float mean, float deviation) {
    std::normal_distribution<float> distribution(mean, deviation);
    const uint64_t count = element_count(shape).value();
    std::vector<bf16> values(count);
    for (bf16& value : values) value = to_bf16(distribution(generator_));
    Held& held = held_[name];
    held.tensor = {.name = name, .dtype = Dtype::kBF16, .shape = shape, .size_bytes = count * sizeof(bf16)};
    const auto bytes = std::as_bytes(std::span(values));
    held.bytes.assign(bytes.begin(), bytes.end());
  }

  const Tensor* find(const std::string& name) const {
    const auto found = held_.find(name);
    return found == held_.end() ? nullptr : &found->second.tensor;
  }
  std::optional<LinearParts> parts(const std::string& module) const {
    return find_linear(
        module, model.tiles, [&](const std::string& name) { return find(name); },
        [](const Tensor& tensor) { return Where{.tensor = tensor.name}; });
  }

  std::vector<Tensor> dense_tensors(uint64_t layer) const {
    const bool head = layer == layers();
    const LayerTable& table = head ? model.table.globals : model.table.layers[layer];
    std::vector<Tensor> tensors;
    for (const WeightModule& module : table.modules) {
      if (module.streams() || head) continue;
      const std::optional<LinearParts> found = parts(module.name);
      if (!found) continue;
      for (const Tensor* part : {found->weight, found->scale, found->scale_2})
        if (part != nullptr) tensors.push_back(*part);
    }
    for (const PlainTensor& plain : table.plain)
      if (const Tensor* tensor = find(plain.name)) tensors.push_back(*tensor);
    return tensors;
  }

  StoredExpert stored_mlp(const LayerTable& table, uint64_t mlp) const {
    const int32_t expert = table.experts == 0 ? -1 : static_cast<int32_t>(mlp);
    const auto part = [&](Role role) { return linear(module(table, {.expert = expert, .role = role})); };
    return {.w1 = part(Role::kGate), .w2 = part(Role::kDown), .w3 = part(Role::kUp)};
  }
  StoredLinear linear(const std::string& module) const {
    const std::optional<LinearParts> found = parts(module);
    const auto data = [&](const Tensor* part) {
      return part == nullptr ? std::span<const std::byte>() : std::span(bytes(part->name));
    };
    return found->format.view(found->format.rows, data(found->weight).data(), data(found->scale).data(),
                              data(found->scale_2));
  }

  std::map<std::string, Held> held_;
  std::mt19937 generator_{1};
};

}  // namespace nibblecast::testing
