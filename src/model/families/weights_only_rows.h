// model/families/weights_only_rows.h - what the rows of weights_only.h are written with. Not for others.
#pragma once

#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

#include "model/families/weights_only.h"

namespace nibblecast {

using Blocks = std::vector<std::span<const TableLine>>;

// The shared expert of Kimi-Linear, Kimi-K3 and MiniMax-M3.
inline constexpr TableLine kSparseMoeShared[] = {
    {Line::kLinear, "block_sparse_moe.shared_experts.gate_proj", "shared_inner, hidden", Role::kGate,
     "ffn.in", false, true},
    {Line::kLinear, "block_sparse_moe.shared_experts.up_proj", "shared_inner, hidden", Role::kUp, "ffn.in",
     false, true},
    {Line::kLinear, "block_sparse_moe.shared_experts.down_proj", "hidden, shared_inner", Role::kDown,
     "shared.mid", false, true},
};

struct SizeKey {
  std::string_view size, key;
};
// Adds the sizes that config.json gives under these keys.
void add_sizes(const ConfigReader& config, std::initializer_list<SizeKey> keys, Sizes& sizes);
// These, and "hidden" and "vocab".
Sizes read_sizes(const ConfigReader& config, std::initializer_list<SizeKey> keys);
uint64_t integer_or(const ConfigReader& config, const char* key, uint64_t otherwise);
// Entry `layer` of a list of words: whether it is `word`; it may also be `other`, and nothing else. Nothing
// where there is no list.
std::optional<bool> is_word(const ConfigReader& config, const char* key, uint64_t layer,
                            std::string_view word, std::string_view other);

// A text model under text_config, with what lies beside it.
WeightsOnlyRow within(WeightsOnlyRow text, std::string_view model_type, std::string_view prefix,
                      std::vector<std::string_view> other_parts);

std::vector<WeightsOnlyRow> linear_attention_rows();  // Kimi-Linear, Kimi-K3, GLM-5.3-Flash
std::vector<WeightsOnlyRow> minimax_m3_rows();
std::vector<WeightsOnlyRow> llama4_rows();

}  // namespace nibblecast
