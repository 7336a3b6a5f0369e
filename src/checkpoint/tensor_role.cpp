#include "checkpoint/tensor_role.h"

#include <charconv>
#include <span>

namespace nibblecast {
namespace {

bool holds(std::string_view name, std::string_view part) { return name.find(part) != std::string_view::npos; }

struct NamePart {
  std::string_view part, meaning;
};

// The first that fits.
std::string_view meaning_of(std::string_view name, std::span<const NamePart> parts) {
  for (const NamePart& part : parts) {
    if (holds(name, part.part)) return part.meaning;
  }
  return {};
}

constexpr NamePart kRoles[] = {
    {".experts.", "routed experts"},
    {".shared_expert", "shared experts"},
    {".ffn.gate.", "router"},
    {".mlp.gate.", "router"},
    {".block_sparse_moe.gate.", "router"},
    {".attn.indexer.", "indexer"},
    {".attn.compressor.", "compressor"},
    {".attn.", "attention"},
    {".self_attn.", "attention"},
    {"hc_", "hyper-connections"},
    {"norm", "norms"},
    {".mlp.", "dense feed-forward"},
    {"embed", "embedding"},
    {"head", "head"},
};

constexpr NamePart kExpertTaps[] = {
    {".w2.", "experts.mid"}, {".down_proj", "experts.mid"}, {"", "experts.in"}};
constexpr NamePart kSharedTaps[] = {{".w2.", "shared.mid"}, {".down_proj", "shared.mid"}, {"", "ffn.in"}};
constexpr NamePart kOtherTaps[] = {
    {".self_attn.o_proj", "attn.out"},
    {".self_attn.", "attn.in"},
    {".mlp.down_proj", "ffn.mid"},
    {".mlp.", "ffn.in"},
    {".attn.wq_b", "attn.q_rank"},
    {".attn.indexer.wq_b", "attn.q_rank"},
    {".attn.wo_a", "attn.out"},
    {".attn.wo_b", "attn.out_rank"},
    {".attn.", "attn.in"},
};

}  // namespace

std::string_view tensor_role(std::string_view name) {
  if (name.starts_with("mtp.")) return "draft (mtp)";
  const std::string_view role = meaning_of(name, kRoles);
  return role.empty() ? "other" : role;
}

std::optional<uint64_t> tensor_layer(std::string_view name) {
  if (name.starts_with("model.")) name.remove_prefix(6);
  if (!name.starts_with("layers.")) return std::nullopt;
  name.remove_prefix(7);
  name = name.substr(0, name.find('.'));
  uint64_t layer = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return layer;
}

std::string_view tensor_tap(std::string_view name) {
  const std::string_view role = tensor_role(name);
  if (role == "routed experts") return meaning_of(name, kExpertTaps);
  if (role == "shared experts") return meaning_of(name, kSharedTaps);
  return meaning_of(name, kOtherTaps);
}

}  // namespace nibblecast
