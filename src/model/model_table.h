// model/model_table.h - what tensors a model consists of, as a value: names, shapes, what each is for, and
// which linears share an input. Plan, recipes, verify, synth, engine contracts and the forward pass read
// this. Names are parsed only where no table speaks: draft layers (convert, the engines' rules of V4),
// samples of the weights, and what inspect shows.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "checkpoint/tensor.h"
#include "model/module_id.h"

namespace nibblecast {

// A distinct input of linears. Linears of one tap are fused by engines (one scale for all), are measured
// once, and have one entry in the amax file.
struct Tap {
  std::string name = {};  // "attn.in": within its layer
  uint64_t experts = 0;   // 0: one value; else one for each routed expert
  bool weighted = false;  // also measured times the routing weight: entry NAME_weighted
  // What weights alone prove of it: an RMSNorm's output, of this many channels, by its weight...
  std::string norm = {};
  uint64_t width = 0;
  bool norm_plus_one = false;  // the weight is stored less one
  // ...or a product of clamped factors.
  float most = std::numeric_limits<float>::infinity();
  float most_weighted = std::numeric_limits<float>::infinity();
};

enum class ModuleKind : uint8_t {
  kLinear,         // what ModelOpt quantizes
  kGroupedLinear,  // each block of rows has its own input (V4's attn.wo_a)
  kRouter,
  kHead,
  kEmbedding,
};

inline constexpr uint16_t kNoTap = UINT16_MAX;

// A module with a weight matrix.
struct WeightModule {
  ModuleId id = {};
  std::string name = {};      // as the checkpoint has it, without ".weight": "layers.3.attn.wq_a"
  std::string hub_name = {};  // transformers' name, where it is another: "model.layers.3.self_attn.q_a_proj"
  ModuleKind kind = ModuleKind::kLinear;
  Shape shape = {};       // [out, in]
  uint16_t tap = kNoTap;  // index into its layer's taps
  bool bias = false;      // NAME.bias [out] is there too
  // The releases store it quantized, and the family's own dialect wants it so where it is kept.
  bool quantized_in_release = false;
  // All routed experts of the layer in one tensor: how many matrices follow each other in `shape`'s rows. The
  // output holds them so too, each transposed, as ModelOpt has them. 0: a matrix.
  uint64_t stack = 0;

  bool is_routed_expert() const { return id.expert >= 0; }
  // Of an MLP that streams by and is used at once: a routed expert's, or a dense layer's only one.
  bool streams() const {
    return stack == 0 && !id.shared &&
           (id.role == Role::kGate || id.role == Role::kUp || id.role == Role::kDown);
  }
};

// What engines know the routed experts of a layer by, one for all: "layers.3.ffn.experts".
std::string experts_name(const WeightModule& expert);

enum class PlainKind : uint8_t {
  kVector,   // BF16, F16 or F32
  kMatrix,   // the same; multiplied with every token
  kTable,    // the same; added or looked up
  kFilter,   // the same; of a convolution, which engines know as a module
  kInteger,  // I64 or I32
};

// A tensor that no recipe changes.
struct PlainTensor {
  ModuleId id = {};
  std::string name = {};      // full: "layers.3.attn_norm.weight"
  std::string hub_name = {};  // as above
  PlainKind kind = PlainKind::kVector;
  Shape shape = {};
};

// Tensors in which a checkpoint may store the routed experts of a layer together, instead of one by one: of
// each expert its gate over its up, [experts, 2 I, D], and its down, [experts, D, I]. Empty: it never does.
struct ExpertStacks {
  std::string gate_up = {}, down = {};
};

struct LayerTable {
  std::vector<WeightModule> modules = {};  // in the fixed order of the family; routed experts last, ascending
  std::vector<PlainTensor> plain = {};
  std::vector<Tap> taps = {};
  ExpertStacks stacks = {};
  uint64_t experts = 0, top = 0;  // routed experts, and how many a token goes to; 0: a dense layer

  uint64_t mlps() const { return experts == 0 ? 1 : experts; }  // that stream by
  const Tap* tap_of(const WeightModule& module) const {
    return module.tap == kNoTap ? nullptr : &taps[module.tap];
  }
  const WeightModule* find(const ModuleId& id) const;
  const PlainTensor* find_plain(Role role) const;
  // Columns of the linears that read a tap (of a grouped one, of one group); 0: none does.
  uint64_t channels_of(size_t tap) const;
};

struct ModelTable {
  LayerTable globals = {};  // embedding, head, final norm and what else stands outside of layers
  std::vector<LayerTable> layers = {};
  bool tied_head = false;  // the head is the embedding: globals have none
  // Names that begin with one of these are passed through unseen: draft layers, other modalities.
  std::vector<std::string> passed_through = {};
  std::vector<std::string> declared_drafts = {};  // of those, layers that config.json says there are

  uint64_t most_experts() const;  // of a layer
  bool passes_through(std::string_view name) const;
};

// Modules by any of their names, with or without ".weight".
class ModuleIndex {
 public:
  explicit ModuleIndex(const ModelTable& table);  // which outlives this
  const WeightModule* find(std::string_view name) const;

 private:
  std::unordered_map<std::string_view, const WeightModule*> by_name_;
};

}  // namespace nibblecast
