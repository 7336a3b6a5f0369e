// model/families/decoder_row.h - what sets a family of decoders apart, as a row of settings: which keys its
// config.json has, what holds where they are absent, and what its tensors are called.
// (transformers 5.23: configuration_*.py and modeling_*.py of each model_type; names on disk by
// conversion_mapping.py)
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "model/decoder_spec.h"
#include "model/families/rope_config.h"

namespace nibblecast {

// A value of the config. Without a key it is the family's own, and no config changes it.
template <class T>
struct Option {
  std::string_view key = {};
  T otherwise = {};  // where the key is absent
};

// Which layers have a window of `sliding_window` keys.
enum class Windows : uint8_t {
  kNone,
  kAll,
  kAllIfUsed,   // all, if use_sliding_window
  kLateIfUsed,  // those of layer_types, or from max_window_layers on, if use_sliding_window
};

// Multi-head latent attention. Its widths have one spelling in all families.
struct MlaRow {
  Option<bool> interleaved = {"", true};  // pairs that turn are neighbours
  bool indexed = false;                   // index_topk, index_n_heads, index_head_dim
  bool shared_indexers = false;           // indexer_types, index_topk_pattern, index_topk_freq
};

// What is called what within model.layers.N.
struct MoeNames {
  std::string_view block = "mlp";  // of router and experts
  std::string_view router = "gate";
  std::string_view router_bias = {};  // empty: there is none
  std::string_view shared = "shared_experts";
  std::string_view shared_gate = {};  // of the shared expert's output; empty: there is none
  std::string_view gate = "gate_proj", up = "up_proj", down = "down_proj";  // of a routed expert
  bool operator==(const MoeNames&) const = default;
};

struct MoeRow {
  std::string_view experts = "num_experts", experts_alias = "num_local_experts";
  std::string_view width = "moe_intermediate_size", width_alias = {};  // of an expert
  std::string_view shared = {};  // key of how many shared experts there are, 1 where absent; empty: none
  std::string_view shared_width = {};  // instead: key of the width of the only one
  // Layers below it are dense.
  Option<uint64_t> first = {};
  bool steps = false;        // and those of mlp_only_layers, and all but each decoder_sparse_step'th
  bool layer_types = false;  // mlp_layer_types, where given, says it instead
  RouterScore score = RouterScore::kSoftmax;
  Option<bool> renormalize = {"", true};
  Option<double> scale = {"", 1};
  float eps = 0;
  bool groups = false;  // n_group, topk_group; where absent:
  uint64_t n_group = 1, topk_group = 1;
  MoeNames names = {};
  MoeNames hub = {};  // transformers' names
  // Releases store all experts of a layer as experts.gate_up_proj and experts.down_proj.
  bool stacked = false;
};

struct DecoderRow {
  std::string_view model_type;
  // Of models that do more than text: the section of config.json that speaks of the text model, and its
  // model_type there.
  std::string_view section = {}, section_type = {}, section_alias = {};  // or this one
  std::string_view prefix = "model.";                                    // of the text model's tensors
  std::string_view head = "lm_head";
  std::vector<std::string_view> other_parts = {};  // what other tensors' names begin with
  NormWeight norm = NormWeight::kRoundedTimes;
  double eps = 1e-6;  // where there is no rms_norm_eps
  RopeDefaults rope = {};
  uint64_t head_dim = 0;           // where the config has none; 0: hidden_size / num_attention_heads
  bool kv_heads_optional = false;  // as many as heads where absent
  Option<bool> qkv_bias = {}, o_bias = {}, mlp_bias = {};
  std::optional<MlaRow> mla = {};  // instead of grouped-query attention
  HeadNorms head_norms = HeadNorms::kNone;
  Option<bool> has_head_norms = {"", true};
  bool output_gate = false;
  // Layers are of full attention, which layer_types or full_attention_interval says, or gated delta nets,
  // which begin with these products.
  std::optional<DeltaNetInput> delta_net = {};
  Windows windows = Windows::kNone;
  uint64_t window = 0;  // where windows have no sliding_window; 0: none
  std::optional<MoeRow> moe = {};
  // Keys of how many layers for drafts follow the others, and how many where absent.
  std::string_view drafts_key = {}, drafts_alias = {};
  uint64_t drafts = 0;
  // Options of the family whose other values the forward pass lacks.
  std::vector<std::pair<std::string_view, Json>> fixed = {};
};

const std::vector<DecoderRow>& decoder_rows();
// That of model_type, which must have one.
const DecoderRow& decoder_row(std::string_view model_type);

}  // namespace nibblecast
