// model/decoder/findings.h - what is found out about a layer on its way: the largest |x| at each place where
// the forward pass looks, and faults of the router. Numbers in one array, wherever they are collected; their
// meaning is here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/activation_amax.h"
#include "model/model_table.h"
#include "ops/block_amaxes.h"
#include "ops/second_moments.h"

namespace nibblecast {

struct LayerFinding {
  enum : size_t {
    kEmbedding,
    kAttentionIn,
    kQueryRank,
    kKvRank,
    kKeys,
    kValues,
    kAttentionOut,
    kAttentionStream,
    kFfnIn,
    kMid,
    kSharedMid,
    kFfnStream,
    kNanScore,  // not 0: the router scored an expert NaN
    kUnknownExpert,
    kExperts,
  };
  // Of each of `experts`: its input, what enters down, and that times the routing weight.
  static size_t expert_in(size_t expert) { return kExperts + 3 * expert; }
  static size_t expert_mid(size_t expert) { return kExperts + 3 * expert + 1; }
  static size_t expert_mid_weighted(size_t expert) { return kExperts + 3 * expert + 2; }
  static size_t count(size_t experts) { return kExperts + 3 * experts; }
  // That of expert 0 for those of any expert.
  static size_t of_experts(size_t finding) {
    return finding < kExperts ? finding : kExperts + (finding - kExperts) % 3;
  }
};

// The layer's taps from its findings (the bits of FP32 magnitudes). `tokens`: of each expert. Errors: what is
// not finite, named by the module that reads it (model/forward_checks.h), in the order of computation.
// kInternal where the table has a tap that is not measured.
LayerAmax read_findings(const LayerTable& table, uint64_t layer, std::span<const uint32_t> bits,
                        std::vector<int64_t> tokens);

// By LayerFinding, of the places that were looked at.
using MomentFindings = std::unordered_map<size_t, SecondMoments>;
// The layer's taps from them (LayerAmax::second_moments). kUnsupported where FP32 cannot hold one.
std::map<std::string, std::vector<float>> read_moments(const LayerTable& table, uint64_t layer,
                                                       const MomentFindings& found);

// By LayerFinding::of_experts(), of the places that were looked at; the layer's taps from them.
using BlockFindings = std::unordered_map<size_t, BlockAmaxes>;
std::map<std::string, BlockAmaxes> read_blocks(const LayerTable& table, const BlockFindings& found);

// Of what comes before the router, and the router's own fault.
void check_routing(const LayerTable& table, std::span<const uint32_t> bits);

}  // namespace nibblecast
