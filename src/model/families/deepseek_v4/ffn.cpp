// The second half of a layer: router, routed experts, shared expert.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <span>

#include "base/file.h"
#include "base/integers.h"
#include "base/parallel.h"
#include "model/families/deepseek_v4/checks.h"
#include "model/families/deepseek_v4/state.h"
#include "ops/linear.h"
#include "ops/round.h"
#include "ops/router.h"
#include "ops/swiglu.h"

namespace nibblecast {
namespace {

constexpr size_t kExpertTokens = kPanelRows;  // taken through an expert at once
constexpr size_t kRouterTokens = 4096;
constexpr size_t kTaskTokens = 64;

// silu(x · w1ᵀ) * (x · w3ᵀ), clamped, for x [rows, D]: times row_weights (may be null: 1) to act [rows, I].
template <class T>
void activate(const T* x, size_t rows, const MlpWeights& weights, float limit, const float* row_weights,
              T* act, Amax& unweighted, Amax& weighted) {
  const size_t inner = weight_rows(weights.w1), width = weight_cols(weights.w1);
  linears<T, 2>(x, rows, width, {weights.w1, weights.w3}, {0, inner},
                [&](const Tile& tile, const std::array<const float*, 2>& sums) {
                  for (size_t row = 0; row < tile.rows; ++row) {
                    const float weight = row_weights == nullptr ? 1.0f : row_weights[tile.row + row];
                    const SwigluAmax seen =
                        swiglu(sums[0] + row * tile.stride, sums[1] + row * tile.stride, tile.cols, limit,
                               weight, act + (tile.row + row) * inner + tile.col);
                    unweighted.add(seen.unweighted);
                    weighted.add(seen.weighted);
                  }
                });
}

template <class T>
void prepare(ForwardState<T>& state, const FfnWeights& weights, Amax& x_amax) {
  const size_t width = state.config.hidden_size;
  parallel_for(ceil_div(state.tokens(), kHyperRows), [&](size_t block) {
    const size_t begin = block * kHyperRows, count = std::min(kHyperRows, state.tokens() - begin);
    std::fill_n(state.sum.data() + begin * width, count * width, 0.0f);
    mix_and_norm(state, weights.hyper, weights.ffn_norm, begin, count, state.x_ffn.data() + begin * width,
                 state.mixes.data() + begin, x_amax);
  });
}

// The experts that the token's id stands for.
void look_up_experts(const std::vector<int64_t>& tid2eid, int32_t id, size_t experts, size_t count,
                     const std::string& tensor, int32_t* chosen) {
  for (size_t i = 0; i < count; ++i) {
    const int64_t expert = tid2eid[static_cast<size_t>(id) * count + i];
    if (expert < 0 || expert >= static_cast<int64_t>(experts)) {
      refuse_expert(tensor, experts, expert, id);
    }
    chosen[i] = static_cast<int32_t>(expert);
  }
}

// Chooses experts and weights of tokens [begin, begin + count) from their logits.
template <class T>
void choose(const ForwardState<T>& state, const FfnWeights& weights, size_t begin, size_t count,
            float* logits, int32_t* chosen, float* chosen_weights) {
  const size_t experts = state.config.n_routed_experts, top = state.config.num_experts_per_tok;
  for (size_t token = 0; token < count; ++token) {
    float* scores = logits + token * experts;
    int32_t* own = chosen + token * top;
    router_scores(scores, experts, scores);
    if (!weights.tid2eid.empty()) {
      look_up_experts(weights.tid2eid, state.ids[begin + token], experts, top,
                      state.module("ffn.gate.tid2eid"), own);
    } else if (!choose_experts(scores, weights.bias.data(), experts, top, own)) {
      refuse_nan_score(state.module("ffn.gate"));
    }
    routing_weights(scores, own, top, static_cast<float>(state.config.routed_scaling_factor),
                    chosen_weights + token * top);
  }
}

template <class T>
void assign(ForwardState<T>& state, const FfnWeights& weights) {
  const size_t experts = state.config.n_routed_experts, top = state.config.num_experts_per_tok;
  const size_t width = state.config.hidden_size;
  std::vector<float> logits(kRouterTokens * experts), chosen_weights(kRouterTokens * top);
  state.chosen.resize(state.tokens() * top);
  for (size_t begin = 0; begin < state.tokens(); begin += kRouterTokens) {
    const size_t count = std::min(kRouterTokens, state.tokens() - begin);
    linear(state.x_ffn.data() + begin * width, count, weights.gate, logits.data());
    int32_t* chosen = state.chosen.data() + begin * top;
    parallel_for((count + kTaskTokens - 1) / kTaskTokens, [&](size_t task) {
      const size_t first = task * kTaskTokens;
      choose(state, weights, begin + first, std::min(kTaskTokens, count - first),
             logits.data() + first * experts, chosen + first * top, chosen_weights.data() + first * top);
    });
    for (size_t i = 0; i < count * top; ++i) {
      state.assigned[static_cast<size_t>(chosen[i])].push_back(
          {static_cast<uint32_t>(begin + i / top), chosen_weights[i]});
    }
  }
}

// The tokens' inputs one after the other, then rows of zeros up to a whole step of rows; the rows in all.
template <class T>
size_t gather(const ForwardState<T>& state, std::span<const Assignment> tokens, T* x, Amax& seen) {
  const size_t width = state.config.hidden_size, steps = ceil_div(tokens.size(), kRowStep);
  parallel_for(steps, [&](size_t step) {
    T* own = x + step * kRowStep * width;
    for (size_t row = 0; row < kRowStep; ++row) {
      const size_t i = step * kRowStep + row;
      if (i < tokens.size())
        std::copy_n(state.x_ffn.data() + tokens[i].token * width, width, own + row * width);
      else
        std::fill_n(own + row * width, width, T{});
    }
    seen.add(amax(own, kRowStep * width));
  });
  return steps * kRowStep;
}

}  // namespace

template <class T>
void run_router(ForwardState<T>& state, const FfnWeights& weights) {
  const size_t tokens = state.tokens(), experts = state.config.n_routed_experts;
  state.x_ffn.take(tokens * state.config.hidden_size);
  state.mixes.resize(tokens);
  state.sum.take(tokens * state.config.hidden_size);
  state.assigned.assign(experts, {});
  for (const std::string& tap :
       {std::string(v4_tap::kExpertsIn), std::string(v4_tap::kExpertsMid), weighted_tap(v4_tap::kExpertsMid)})
    state.amax.taps[tap].assign(experts, 0);
  state.amax.tokens.assign(experts, 0);
  Amax x_amax;
  prepare(state, weights, x_amax);
  state.record(v4_tap::kFfnIn, "ffn.gate", x_amax);
  state.add_moments(v4_tap::kFfnIn, state.x_ffn.data(), state.tokens(), state.config.hidden_size);
  assign(state, weights);
  if (state.watch.routing) state.watch.routing(state.chosen);
  state.shared.keep(weights.shared);
  state.shared.weights.in_scale = state.input_scale("ffn.shared_experts.w1");
  state.shared.weights.mid_scale = state.input_scale("ffn.shared_experts.w2");
}

template <class T>
void run_expert(ForwardState<T>& state, uint64_t expert, const MlpWeights& weights) {
  const std::vector<Assignment>& assigned = state.assigned[expert];
  const size_t width = state.config.hidden_size, inner = state.config.moe_intermediate_size;
  const size_t most = ceil_div(std::min(kExpertTokens, assigned.size()), kRowStep) * kRowStep;
  T* x = state.expert_x.take(most * width);
  T* act = state.expert_act.take(most * inner);
  Amax x_amax, unweighted, weighted;
  for (size_t begin = 0; begin < assigned.size(); begin += kExpertTokens) {
    const std::span<const Assignment> tokens(assigned.data() + begin,
                                             std::min(kExpertTokens, assigned.size() - begin));
    const size_t rows = gather(state, tokens, x, x_amax);
    std::vector<float> row_weights(rows);
    for (size_t row = 0; row < tokens.size(); ++row) row_weights[row] = tokens[row].weight;
    state.add_moments(v4_tap::kExpertsIn, x, tokens.size(), width);
    if (weights.in_scale != 0) round_inputs(state, x, rows, width, weights.in_scale, x);
    activate(x, rows, weights, static_cast<float>(state.config.swiglu_limit), row_weights.data(), act,
             unweighted, weighted);
    state.add_moments(v4_tap::kExpertsMid, act, tokens.size(), inner);
    if (weights.mid_scale != 0) round_inputs(state, act, rows, inner, weights.mid_scale, act);
    linears<T, 1>(act, rows, inner, {weights.w2}, {0, width},
                  [&](const Tile& tile, const std::array<const float*, 1>& sums) {
                    const size_t end = std::min(tile.row + tile.rows, tokens.size());
                    for (size_t row = tile.row; row < end; ++row) {
                      const float* from = sums[0] + (row - tile.row) * tile.stride;
                      float* to = state.sum.data() + tokens[row].token * width + tile.col;
                      for (size_t col = 0; col < tile.cols; ++col) to[col] += from[col];
                    }
                  });
    state.report(static_cast<double>(begin + tokens.size()), assigned.size());
  }
  state.end_moments(v4_tap::kExpertsIn, width);
  state.end_moments(v4_tap::kExpertsMid, inner);
  const std::string name = "ffn.experts." + std::to_string(expert);
  state.check(name + ".w1", x_amax);
  state.check(name + ".w2", unweighted);
  state.check(name + ".w2", weighted);
  state.amax.taps[v4_tap::kExpertsIn][expert] = x_amax.value();
  state.amax.taps[v4_tap::kExpertsMid][expert] = unweighted.value();
  state.amax.taps[weighted_tap(v4_tap::kExpertsMid)][expert] = weighted.value();
  state.amax.tokens[expert] = static_cast<int64_t>(assigned.size());
}

template <class T>
void finish_ffn(ForwardState<T>& state) {
  const size_t width = state.config.hidden_size, inner = state.config.moe_intermediate_size;
  const MlpWeights& weights = state.shared.weights;
  T* act = state.expert_act.take(std::min(kExpertTokens, state.tokens()) * inner);
  Amax act_amax, stream_amax;
  for (size_t begin = 0; begin < state.tokens(); begin += kExpertTokens) {
    const size_t rows = std::min(kExpertTokens, state.tokens() - begin);
    T* x = state.x_ffn.data() + begin * width;  // read here for the last time, then the output
    if (weights.in_scale != 0) round_inputs(state, x, rows, width, weights.in_scale, x);
    activate(x, rows, weights, static_cast<float>(state.config.swiglu_limit), nullptr, act, act_amax,
             act_amax);
    state.add_moments(v4_tap::kSharedMid, act, rows, inner);
    if (weights.mid_scale != 0) round_inputs(state, act, rows, inner, weights.mid_scale, act);
    linears<T, 1>(act, rows, inner, {weights.w2}, {0, width},
                  [&](const Tile& tile, const std::array<const float*, 1>& sums) {
                    for (size_t row = 0; row < tile.rows; ++row) {
                      const size_t at = (tile.row + row) * width + tile.col;
                      round_sum(state.sum.data() + begin * width + at, sums[0] + row * tile.stride, tile.cols,
                                x + at);
                    }
                  });
    state.show(LayerPart::kFfn, begin, rows, x);
    parallel_for(rows, [&](size_t row) {
      const size_t token = begin + row;
      spread(state, state.mixes[token], token, x + row * width, stream_amax);
    });
    state.report(static_cast<double>(begin + rows), state.tokens());
  }
  state.expert_x = {};
  state.expert_act = {};
  state.record(v4_tap::kSharedMid, "ffn.shared_experts.w2", act_amax);
  check_streams(state.module("hc_ffn"), stream_amax.value());
}

void SharedExpert::keep(const MlpWeights& stored) {
  weights = stored;
  WeightView* kept[] = {&weights.w1, &weights.w2, &weights.w3};
  for (size_t i = 0; i < 3; ++i) {
    size_t size = 0, at = 0;
    for_parts(*kept[i], [&](const auto&, size_t size_bytes) { size += size_bytes; });
    bytes[i].resize(size);
    for_parts(*kept[i], [&](auto& part, size_t size_bytes) {
      if (size_bytes > 0) std::memcpy(bytes[i].data() + at, part, size_bytes);
      part = reinterpret_cast<std::decay_t<decltype(part)>>(bytes[i].data() + at);
      at += size_bytes;
    });
  }
}

template <class T>
uint64_t ffn_bytes(const DeepseekV4Config& config, uint64_t tokens, size_t threads) {
  const uint64_t width = config.hidden_size, inner = config.moe_intermediate_size;
  const uint64_t experts = config.n_routed_experts, top = config.num_experts_per_tok;
  const uint64_t widest = std::max(width, inner);
  const uint64_t router = kRouterTokens * (experts + top) * sizeof(float) + config.vocab_size * top * 8;
  const uint64_t most = ceil_div(std::min<uint64_t>(tokens, kExpertTokens), kRowStep) * kRowStep;
  const uint64_t expert = most * ((width + inner) * sizeof(T) + sizeof(float)) + 2 * kDirectAlignment;
  const uint64_t thread =
      linear_scratch_bytes<T>(2, widest) + mix_streams_scratch_bytes(config.hc_mult, width);
  // Lists grow by doubling: at the moment of growth both exist.
  const uint64_t lists = 3 * tokens * top * sizeof(Assignment);
  return std::max(router, expert) + lists + threads * thread;
}

template void run_router(ForwardState<float>&, const FfnWeights&);
template void run_router(ForwardState<bf16>&, const FfnWeights&);
template void run_expert(ForwardState<float>&, uint64_t, const MlpWeights&);
template void run_expert(ForwardState<bf16>&, uint64_t, const MlpWeights&);
template void finish_ffn(ForwardState<float>&);
template void finish_ffn(ForwardState<bf16>&);
template uint64_t ffn_bytes<float>(const DeepseekV4Config&, uint64_t, size_t);
template uint64_t ffn_bytes<bf16>(const DeepseekV4Config&, uint64_t, size_t);

}  // namespace nibblecast
