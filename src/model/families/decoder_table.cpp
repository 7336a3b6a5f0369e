#include "model/families/decoder_table.h"

#include <algorithm>
#include <string>

namespace nibblecast {
namespace {

// What the projections of an MLP are called within their layer.
struct MlpNames {
  std::string prefix;
  std::string_view gate = "gate_proj", up = "up_proj", down = "down_proj";
};

struct MlpTaps {
  uint16_t in, mid;
};

std::string dotted(std::string_view block) { return std::string(block) + "."; }

MlpNames expert_names(const MoeNames& names, uint64_t expert) {
  return {dotted(names.block) + "experts." + std::to_string(expert) + ".", names.gate, names.up, names.down};
}

std::string layers_prefix(const DecoderRow& row) { return std::string(row.prefix) + "layers."; }

// Fills the table of one layer.
class LayerMaker {
 public:
  LayerMaker(const DecoderSpec& spec, const DecoderRow& row, uint64_t layer)
      : spec_(spec),
        row_(row),
        layer_(static_cast<int32_t>(layer)),
        prefix_(layers_prefix(row) + std::to_string(layer) + ".") {}

  LayerTable make() && {
    plain(Role::kInputNorm, "input_layernorm.weight", {spec_.hidden});
    std::visit([&](const auto& mixer) { add_mixer(mixer); }, layer().mixer);
    plain(Role::kFfnNorm, "post_attention_layernorm.weight", {spec_.hidden});
    std::visit([&](const auto& ffn) { add_ffn(ffn); }, layer().ffn);
    return std::move(table_);
  }

 private:
  const DecoderLayer& layer() const { return spec_.layers[static_cast<size_t>(layer_)]; }

  // Of one tap: `norm` says whose output it is, if a norm's over the hidden channels.
  uint16_t tap(const char* name, std::string_view norm = "", uint64_t experts = 0, bool weighted = false) {
    Tap tap{.name = name, .experts = experts, .weighted = weighted};
    if (!norm.empty()) set_norm(tap, norm, spec_.hidden);
    return add(std::move(tap));
  }
  // Of a norm's output of another width.
  uint16_t rank_tap(const char* name, std::string_view norm, uint64_t width) {
    Tap tap{.name = name};
    set_norm(tap, norm, width);
    return add(std::move(tap));
  }
  void set_norm(Tap& tap, std::string_view norm, uint64_t width) const {
    tap.norm = prefix_ + std::string(norm) + ".weight";
    tap.width = width;
    tap.norm_plus_one = spec_.norm.use == NormWeight::kPlusOne;
  }
  uint16_t add(Tap tap) {
    table_.taps.push_back(std::move(tap));
    return static_cast<uint16_t>(table_.taps.size() - 1);
  }

  void plain(Role role, std::string_view name, Shape shape, std::string_view hub = "") {
    PlainTensor tensor{.id = {.layer = layer_, .role = role}, .name = prefix_ + std::string(name)};
    if (!hub.empty() && hub != name) tensor.hub_name = prefix_ + std::string(hub);
    tensor.shape = std::move(shape);
    table_.plain.push_back(std::move(tensor));
  }

  // `name` and `hub`, transformers' name, are within the layer.
  void module(ModuleId id, const std::string& name, const std::string& hub, Shape shape, uint16_t tap,
              bool bias = false) {
    id.layer = layer_;
    WeightModule module{
        .id = id, .name = prefix_ + name, .shape = std::move(shape), .tap = tap, .bias = bias};
    if (hub != name) module.hub_name = prefix_ + hub;
    if (id.role == Role::kRouter || id.role == Role::kSharedGate) module.kind = ModuleKind::kRouter;
    if (bias) {
      table_.plain.push_back({.id = id,
                              .name = module.name + ".bias",
                              .hub_name = module.hub_name.empty() ? "" : module.hub_name + ".bias",
                              .shape = {module.shape[0]}});
    }
    table_.modules.push_back(std::move(module));
  }

  void add_mixer(const GqaSpec& gqa) {
    const uint64_t q = gqa.heads * gqa.width, kv = gqa.kv_heads * gqa.width;
    const uint16_t in = tap(decoder_tap::kAttentionIn, "input_layernorm");
    const uint16_t out = tap(decoder_tap::kAttentionOut);
    tap(decoder_tap::kKeys), tap(decoder_tap::kValues);  // of no linear: what a cache holds
    attention(Role::kQ, "q_proj", {gqa.output_gate ? 2 * q : q, spec_.hidden}, in, gqa.qkv_bias);
    attention(Role::kK, "k_proj", {kv, spec_.hidden}, in, gqa.qkv_bias);
    attention(Role::kV, "v_proj", {kv, spec_.hidden}, in, gqa.qkv_bias);
    attention(Role::kO, "o_proj", {spec_.hidden, q}, out, gqa.o_bias);
    if (gqa.head_norms == HeadNorms::kNone) return;
    const bool all = gqa.head_norms == HeadNorms::kAll;
    plain(Role::kQNorm, "self_attn.q_norm.weight", {all ? q : gqa.width});
    plain(Role::kKNorm, "self_attn.k_norm.weight", {all ? kv : gqa.width});
  }

  void add_mixer(const MlaSpec& mla) {
    const LatentHeads& heads = mla.heads;
    const uint64_t hidden = spec_.hidden, queries = heads.heads * heads.key_width();
    const uint16_t in = tap(decoder_tap::kAttentionIn, "input_layernorm");
    const uint16_t out = tap(decoder_tap::kAttentionOut);
    uint16_t q_rank = kNoTap;
    if (mla.q_rank == 0) {
      attention(Role::kQ, "q_proj", {queries, hidden}, in);
    } else {
      attention(Role::kQA, "q_a_proj", {mla.q_rank, hidden}, in);
      plain(Role::kQRankNorm, "self_attn.q_a_layernorm.weight", {mla.q_rank});
      q_rank = rank_tap(decoder_tap::kQueryRank, "self_attn.q_a_layernorm", mla.q_rank);
    }
    attention(Role::kKvA, "kv_a_proj_with_mqa", {mla.kv_rank + heads.shared, hidden}, in);
    plain(Role::kKvRankNorm, "self_attn.kv_a_layernorm.weight", {mla.kv_rank});
    const uint16_t kv_rank = rank_tap(decoder_tap::kKvRank, "self_attn.kv_a_layernorm", mla.kv_rank);
    if (mla.q_rank != 0) attention(Role::kQB, "q_b_proj", {queries, mla.q_rank}, q_rank);
    attention(Role::kKvB, "kv_b_proj", {heads.heads * heads.expanded_width(), mla.kv_rank}, kv_rank);
    attention(Role::kO, "o_proj", {hidden, heads.heads * heads.value}, out);
    if (mla.indexer) add_indexer(*mla.indexer, mla.q_rank, in, q_rank);
  }
  void add_indexer(const IndexerSpec& indexer, uint64_t rank, uint16_t in, uint16_t q_rank) {
    attention(Role::kIndexQ, "indexer.wq_b", {indexer.heads * indexer.width, rank}, q_rank);
    attention(Role::kIndexK, "indexer.wk", {indexer.width, spec_.hidden}, in);
    attention(Role::kIndexWeights, "indexer.weights_proj", {indexer.heads, spec_.hidden}, in);
    plain(Role::kOther, "self_attn.indexer.k_norm.weight", {indexer.width});
    plain(Role::kOther, "self_attn.indexer.k_norm.bias", {indexer.width});
  }

  void attention(Role role, const std::string& name, Shape shape, uint16_t tap, bool bias = false) {
    module({.role = role}, "self_attn." + name, "self_attn." + name, std::move(shape), tap, bias);
  }

  void add_mixer(const DeltaNetSpec& net) {
    const DeltaNetShape& shape = net.shape;
    const uint16_t in = tap(decoder_tap::kAttentionIn, "input_layernorm");
    const uint16_t out = tap(decoder_tap::kAttentionOut);
    const auto add = [&](Role role, const std::string& name, Shape of, uint16_t tap) {
      module({.role = role}, "linear_attn." + name, "linear_attn." + name, std::move(of), tap);
    };
    if (net.input == DeltaNetInput::kSplit) {
      add(Role::kDeltaQkv, "in_proj_qkv", {shape.channels(), spec_.hidden}, in);
      add(Role::kDeltaZ, "in_proj_z", {shape.values(), spec_.hidden}, in);
      add(Role::kDeltaB, "in_proj_b", {shape.value_heads, spec_.hidden}, in);
      add(Role::kDeltaA, "in_proj_a", {shape.value_heads, spec_.hidden}, in);
    } else {
      add(Role::kDeltaQkvz, "in_proj_qkvz", {shape.channels() + shape.values(), spec_.hidden}, in);
      add(Role::kDeltaBa, "in_proj_ba", {2 * shape.value_heads, spec_.hidden}, in);
    }
    add(Role::kO, "out_proj", {spec_.hidden, shape.values()}, out);
    plain(Role::kFilter, "linear_attn.conv1d.weight", {shape.channels(), 1, shape.taps});
    table_.plain.back().kind = PlainKind::kFilter;
    plain(Role::kDecayLog, "linear_attn.A_log", {shape.value_heads});
    plain(Role::kStepBias, "linear_attn.dt_bias", {shape.value_heads});
    plain(Role::kOutNorm, "linear_attn.norm.weight", {shape.value_width});
  }

  // Gate, up and down; what `id` lacks is the role.
  void add_mlp(ModuleId id, const MlpSpec& mlp, MlpTaps taps, const MlpNames& names, const MlpNames& hub) {
    const auto add = [&](Role role, std::string_view name, std::string_view hub_name, Shape shape) {
      id.role = role;
      module(id, names.prefix + std::string(name), hub.prefix + std::string(hub_name), std::move(shape),
             role == Role::kDown ? taps.mid : taps.in, mlp.bias);
    };
    add(Role::kGate, names.gate, hub.gate, {mlp.width, spec_.hidden});
    add(Role::kUp, names.up, hub.up, {mlp.width, spec_.hidden});
    add(Role::kDown, names.down, hub.down, {spec_.hidden, mlp.width});
  }

  void add_ffn(const MlpSpec& mlp) {
    const uint16_t in = tap(decoder_tap::kFfnIn, "post_attention_layernorm");
    add_mlp({}, mlp, {in, tap(decoder_tap::kFfnMid)}, {"mlp."}, {"mlp."});
  }

  void add_ffn(const MoeSpec& moe) {
    table_.experts = moe.router.experts;
    table_.top = moe.router.top;
    const MoeNames &names = row_.moe->names, &hub = row_.moe->hub;
    const uint16_t in = tap(decoder_tap::kFfnIn, "post_attention_layernorm");
    add_router(moe, in);
    if (moe.shared_gate) {
      module({.shared = true, .role = Role::kSharedGate},
             dotted(names.block) + std::string(names.shared_gate),
             dotted(hub.block) + std::string(hub.shared_gate), {1, spec_.hidden}, in);
    }
    if (moe.shared) {
      add_mlp({.shared = true}, *moe.shared, {in, tap(decoder_tap::kSharedMid)},
              {dotted(names.block) + dotted(names.shared)}, {dotted(hub.block) + dotted(hub.shared)});
    }
    if (row_.moe->stacked) {
      const std::string experts = prefix_ + dotted(names.block) + "experts.";
      table_.stacks = {.gate_up = experts + "gate_up_proj", .down = experts + "down_proj"};
    }
    const MlpTaps taps = {tap(decoder_tap::kExpertsIn, "post_attention_layernorm", moe.router.experts),
                          tap(decoder_tap::kExpertsMid, "", moe.router.experts, true)};
    for (uint64_t expert = 0; expert < moe.router.experts; ++expert) {
      add_mlp({.expert = static_cast<int32_t>(expert)}, moe.expert, taps, expert_names(names, expert),
              expert_names(hub, expert));
    }
  }

  void add_router(const MoeSpec& moe, uint16_t in) {
    const MoeNames &names = row_.moe->names, &hub = row_.moe->hub;
    const std::string block = dotted(names.block), hub_block = dotted(hub.block);
    module({.role = Role::kRouter}, block + std::string(names.router), hub_block + std::string(hub.router),
           {moe.router.experts, spec_.hidden}, in);
    if (!moe.choice_bias) return;
    plain(Role::kRouterBias, block + std::string(names.router_bias), {moe.router.experts},
          hub_block + std::string(hub.router_bias));
  }

  const DecoderSpec& spec_;
  const DecoderRow& row_;
  int32_t layer_;
  std::string prefix_;
  LayerTable table_;
};

LayerTable global_table(const DecoderSpec& spec, const DecoderRow& row, bool tied_head) {
  const std::string prefix(row.prefix);
  LayerTable table;
  table.modules.push_back({.id = {.role = Role::kEmbedding},
                           .name = prefix + "embed_tokens",
                           .kind = ModuleKind::kEmbedding,
                           .shape = {spec.vocab, spec.hidden}});
  table.plain.push_back(
      {.id = {.role = Role::kFinalNorm}, .name = prefix + "norm.weight", .shape = {spec.hidden}});
  if (!tied_head) {
    table.modules.push_back({.id = {.role = Role::kHead},
                             .name = std::string(row.head),
                             .kind = ModuleKind::kHead,
                             .shape = {spec.vocab, spec.hidden}});
  }
  return table;
}

}  // namespace

ModelTable decoder_table(const DecoderSpec& spec, const DecoderRow& row, bool tied_head) {
  ModelTable table{.globals = global_table(spec, row, tied_head), .tied_head = tied_head};
  for (uint64_t layer = 0; layer < spec.layers.size(); ++layer) {
    table.layers.push_back(LayerMaker(spec, row, layer).make());
    // Old checkpoints hold RoPE's frequencies, which everyone makes anew.
    table.passed_through.push_back(layers_prefix(row) + std::to_string(layer) +
                                   ".self_attn.rotary_emb.inv_freq");
  }
  for (const std::string_view part : row.other_parts) table.passed_through.emplace_back(part);
  if (tied_head) table.passed_through.push_back(std::string(row.head) + ".weight");
  return table;
}

}  // namespace nibblecast
