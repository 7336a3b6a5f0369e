// model/decoder/weights.h - the dense weights of a layer in the form in which a device D computes with them.
// Names come from the layer's table, by role.
//
// D::Matrix is a linear's weight: D.matrix(stored) makes it, D.vector(values) brings a vector to where D
// computes; both hold until the next layer's weights are loaded.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "model/decoder_spec.h"
#include "model/forward_pass.h"
#include "model/model_table.h"
#include "model/stored.h"
#include "ops/delta_net.h"

namespace nibblecast {

template <class D>
struct Linear {
  typename D::Matrix weight = {};
  const float* bias = nullptr;  // null: none
  float input_scale = 0;        // what its input is rounded with (formats/nvfp4_input.h); 0: it is not
};

template <class D>
struct GqaWeights {
  const float *norm = nullptr, *q_norm = nullptr, *k_norm = nullptr, *sinks = nullptr;
  Linear<D> q = {}, k = {}, v = {}, o = {};
};

template <class D>
struct MlaWeights {
  const float *norm = nullptr, *q_norm = nullptr, *kv_norm = nullptr;
  Linear<D> q = {};  // where there is no rank
  Linear<D> q_a = {}, q_b = {}, kv_a = {}, kv_b = {}, o = {};
};

template <class D>
struct DeltaNetWeights {
  const float* norm = nullptr;
  DeltaNetVectors vectors = {};
  Linear<D> qkv = {}, z = {}, b = {}, a = {};  // DeltaNetInput::kSplit
  Linear<D> qkvz = {}, ba = {};                // kByHead
  Linear<D> o = {};
};

template <class D>
struct GatedMlp {
  Linear<D> gate = {}, up = {}, down = {};  // gate: of no meaning to an activation without one
};

// Runs an MLP that streams by; load() makes its weights ready, which one without tokens does not need.
template <class D>
using RunMlp = std::function<void(uint64_t mlp, const std::function<GatedMlp<D>()>& load)>;

template <class D>
struct DenseFfnWeights {
  const float* norm = nullptr;
  // Of a dense layer, whose weights stream by.
  const float *gate_bias = nullptr, *up_bias = nullptr, *down_bias = nullptr;
  // Of a layer of experts.
  Linear<D> router = {};
  const float* choice_bias = nullptr;
  const float* shared_gate = nullptr;  // [D]
  GatedMlp<D> shared = {};
};

// Of a module with a weight: one row, which no product takes.
inline bool is_vector(const WeightModule& module) { return module.id.role == Role::kSharedGate; }

// Loads from `stored` what `table` names. Errors as StoredReader's; kInternal where the table lacks a role
// that the spec has.
template <class D>
class DenseLoader {
 public:
  DenseLoader(D& device, const LayerTable& table, const StoredTensors& stored, const TileSize& tiles,
              const DecoderSpec& spec, const InputScales& input_scales = {})
      : device_(device),
        table_(table),
        reader_(stored, tiles),
        hidden_(spec.hidden),
        eps_(spec.norm.eps),
        input_scales_(input_scales) {}

  GqaWeights<D> mixer(const GqaSpec& gqa) {
    const uint64_t queries = gqa.heads * gqa.width, keys = gqa.kv_heads * gqa.width;
    const bool norms = gqa.head_norms != HeadNorms::kNone, all = gqa.head_norms == HeadNorms::kAll;
    return {.norm = vector(Role::kInputNorm, hidden_),
            .q_norm = norms ? vector(Role::kQNorm, all ? queries : gqa.width) : nullptr,
            .k_norm = norms ? vector(Role::kKNorm, all ? keys : gqa.width) : nullptr,
            .sinks = gqa.sinks ? vector(Role::kSinks, gqa.heads) : nullptr,
            .q = linear({.role = Role::kQ}, gqa.output_gate ? 2 * queries : queries, hidden_, gqa.qkv_bias),
            .k = linear({.role = Role::kK}, keys, hidden_, gqa.qkv_bias),
            .v = linear({.role = Role::kV}, keys, hidden_, gqa.qkv_bias),
            .o = linear({.role = Role::kO}, hidden_, queries, gqa.o_bias)};
  }

  MlaWeights<D> mixer(const MlaSpec& mla) {
    const LatentHeads& heads = mla.heads;
    const uint64_t queries = heads.heads * heads.key_width(), out = heads.heads * heads.value;
    const auto plain = [&](Role role, uint64_t rows, uint64_t cols) {
      return linear({.role = role}, rows, cols, false);
    };
    MlaWeights<D> weights{.norm = vector(Role::kInputNorm, hidden_),
                          .kv_norm = vector(Role::kKvRankNorm, mla.kv_rank),
                          .kv_a = plain(Role::kKvA, mla.kv_rank + heads.shared, hidden_),
                          .kv_b = plain(Role::kKvB, heads.heads * heads.expanded_width(), mla.kv_rank),
                          .o = plain(Role::kO, hidden_, out)};
    if (mla.q_rank == 0) {
      weights.q = plain(Role::kQ, queries, hidden_);
    } else {
      weights.q_norm = vector(Role::kQRankNorm, mla.q_rank);
      weights.q_a = plain(Role::kQA, mla.q_rank, hidden_);
      weights.q_b = plain(Role::kQB, queries, mla.q_rank);
    }
    return weights;
  }

  DeltaNetWeights<D> mixer(const DeltaNetSpec& net) {
    const DeltaNetShape& shape = net.shape;
    const auto product = [&](Role role, uint64_t rows) {
      return linear({.role = role}, rows, hidden_, false);
    };
    DeltaNetWeights<D> weights{.norm = vector(Role::kInputNorm, hidden_),
                               .vectors = delta_net_vectors(shape),
                               .o = linear({.role = Role::kO}, hidden_, shape.values(), false)};
    if (net.input == DeltaNetInput::kSplit) {
      weights.qkv = product(Role::kDeltaQkv, shape.channels());
      weights.z = product(Role::kDeltaZ, shape.values());
      weights.b = product(Role::kDeltaB, shape.value_heads);
      weights.a = product(Role::kDeltaA, shape.value_heads);
    } else {
      weights.qkvz = product(Role::kDeltaQkvz, shape.channels() + shape.values());
      weights.ba = product(Role::kDeltaBa, 2 * shape.value_heads);
    }
    return weights;
  }

  DenseFfnWeights<D> ffn(const MlpSpec& mlp) {
    DenseFfnWeights<D> weights{.norm = vector(Role::kFfnNorm, hidden_)};
    if (!mlp.bias) return weights;
    if (mlp.activation.gated()) weights.gate_bias = bias({.role = Role::kGate}, mlp.width);
    weights.up_bias = bias({.role = Role::kUp}, mlp.width);
    weights.down_bias = bias({.role = Role::kDown}, hidden_);
    return weights;
  }
  DenseFfnWeights<D> ffn(const MoeSpec& moe) {
    DenseFfnWeights<D> weights{.norm = vector(Role::kFfnNorm, hidden_),
                               .router = linear({.role = Role::kRouter}, moe.router.experts, hidden_, false)};
    if (moe.choice_bias) weights.choice_bias = vector(Role::kRouterBias, moe.router.experts);
    if (moe.shared) weights.shared = shared(*moe.shared);
    if (moe.shared_gate)
      weights.shared_gate = device_.vector(
          reader_.floats(module({.shared = true, .role = Role::kSharedGate}).name + ".weight", {1, hidden_}));
    return weights;
  }

  const float* final_norm() { return vector(Role::kFinalNorm, hidden_); }

 private:
  GatedMlp<D> shared(const MlpSpec& mlp) {
    const auto part = [&](Role role, uint64_t rows, uint64_t cols) {
      return linear({.shared = true, .role = role}, rows, cols, mlp.bias);
    };
    GatedMlp<D> weights{.up = part(Role::kUp, mlp.width, hidden_),
                        .down = part(Role::kDown, hidden_, mlp.width)};
    if (mlp.activation.gated()) weights.gate = part(Role::kGate, mlp.width, hidden_);
    return weights;
  }

  DeltaNetVectors delta_net_vectors(const DeltaNetShape& shape) {
    return {.filter = device_.vector(by_tap(shape, values(Role::kFilter, {shape.channels(), 1, shape.taps}))),
            .decay_log = vector(Role::kDecayLog, shape.value_heads),
            .step_bias = vector(Role::kStepBias, shape.value_heads),
            .norm = vector(Role::kOutNorm, shape.value_width),
            .eps = eps_};
  }
  // [channels, taps] -> [taps, channels]
  static std::vector<float> by_tap(const DeltaNetShape& shape, const std::vector<float>& filter) {
    std::vector<float> turned(filter.size());
    for (size_t channel = 0; channel < shape.channels(); ++channel)
      for (size_t tap = 0; tap < shape.taps; ++tap)
        turned[tap * shape.channels() + channel] = filter[channel * shape.taps + tap];
    return turned;
  }

  Linear<D> linear(ModuleId id, uint64_t rows, uint64_t cols, bool with_bias) {
    const std::string& name = module(id).name;
    const auto scale = input_scales_.find(name);
    return {device_.matrix(reader_.linear(name, rows, cols)), with_bias ? bias(id, rows) : nullptr,
            scale == input_scales_.end() ? 0 : scale->second};
  }
  const float* bias(ModuleId id, uint64_t rows) {
    return device_.vector(reader_.floats(module(id).name + ".bias", {rows}));
  }
  const float* vector(Role role, uint64_t count) { return device_.vector(values(role, {count})); }
  std::vector<float> values(Role role, const Shape& shape) const {
    const PlainTensor* tensor = table_.find_plain(role);
    if (tensor == nullptr) refuse();
    return reader_.floats(tensor->name, shape);
  }

  // `id` without its layer.
  const WeightModule& module(ModuleId id) const {
    for (const WeightModule& each : table_.modules) {
      if (each.id.role == id.role && each.id.shared == id.shared && each.id.expert == id.expert) return each;
    }
    refuse();
  }
  [[noreturn]] static void refuse() {
    throw Error(ErrorKind::kInternal, {}, "a layer's table lacks a part that its spec has");
  }

  D& device_;
  const LayerTable& table_;
  const StoredReader reader_;
  const uint64_t hidden_;
  const float eps_;
  const InputScales input_scales_;
};

}  // namespace nibblecast
