// model/decoder/ffn.h - the second half of a layer: x += mlp(norm(x)), or the weighted sum of the experts
// that a router chooses, and of a shared expert. The steps in their order; D computes them
// (model/decoder/cpu_ops.h).
#pragma once

#include <algorithm>

#include "base/integers.h"
#include "model/decoder/findings.h"
#include "model/decoder/weights.h"
#include "model/expert_lists.h"

namespace nibblecast {

// down(activation(gate(in), up(in))) of `count` rows of `in` to y [padded, D]; rows from `count` to `padded`
// mean nothing. row_weights [count] (null: none) enter nothing but `weighted`. `mid` and `weighted` (null:
// none) are findings of what enters down.
template <class D>
void run_mlp(D& device, const MlpSpec& mlp, const typename D::Element* in, size_t count, size_t padded,
             const GatedMlp<D>& weights, const float* row_weights, float* y, size_t mid,
             typename D::Seen weighted) {
  auto* const act = device.work().ffn.act;
  device.activate(mlp.activation, in, count, padded, weights, row_weights, act, device.seen(mid), weighted);
  device.add_moments(mid, act, count, mlp.width);
  device.product(act, padded, weights.down, y);
}

// f(begin, count) for all tokens, as many at once as go through an MLP.
template <class D, class F>
void for_mlp_tokens(D& device, const F& f) {
  const size_t tokens = device.tokens();
  for (size_t begin = 0; begin < tokens; begin += D::kSizes.mlp_tokens) {
    f(begin, std::min<size_t>(D::kSizes.mlp_tokens, tokens - begin));
  }
}

template <class D>
void run_dense_mlp(D& device, const DecoderSpec& spec, const MlpSpec& mlp, const float* norm,
                   const GatedMlp<D>& weights) {
  const auto& buffers = device.work().ffn;
  for_mlp_tokens(device, [&](size_t begin, size_t count) {
    auto* const x = device.load(begin, count);
    device.norm(x, count, spec.hidden, norm, spec.norm, buffers.in, device.seen(LayerFinding::kFfnIn));
    device.add_moments(LayerFinding::kFfnIn, buffers.in, count, spec.hidden);
    run_mlp(device, mlp, buffers.in, count, count, weights, nullptr, buffers.y, LayerFinding::kMid, nullptr);
    device.show(LayerPart::kFfn, begin, count, buffers.y);
    device.add(buffers.y, count, spec.hidden, x, device.seen(LayerFinding::kFfnStream));
    device.store(begin, count, x);
    device.report(begin + count);
  });
}

// Which experts tokens go to; the shared expert's output, or zeros, to the sum.
template <class D>
void run_router(D& device, const DecoderSpec& spec, const MoeSpec& moe, const DenseFfnWeights<D>& weights) {
  const auto& buffers = device.work().ffn;
  for_mlp_tokens(device, [&](size_t begin, size_t count) {
    float* const sum = device.residual().sum + begin * spec.hidden;
    device.norm(device.load(begin, count), count, spec.hidden, weights.norm, spec.norm, buffers.in,
                device.seen(LayerFinding::kFfnIn));
    device.add_moments(LayerFinding::kFfnIn, buffers.in, count, spec.hidden);
    device.product(buffers.in, count, weights.router, buffers.logits);
    device.route(moe.router, weights.choice_bias, buffers.logits, begin, count);
    if (moe.shared) {
      run_mlp(device, *moe.shared, buffers.in, count, count, weights.shared, nullptr, sum,
              LayerFinding::kSharedMid, nullptr);
      if (moe.shared_gate) device.gate_rows(buffers.in, count, weights.shared_gate, sum);
    } else {
      device.clear(sum, count * spec.hidden);
    }
  });
}

// Adds an expert's outputs for the tokens that come to it to the sum.
template <class D>
void run_expert(D& device, const DecoderSpec& spec, const MoeSpec& moe, const float* norm, size_t expert,
                const ExpertLists& lists, const GatedMlp<D>& weights) {
  const auto& buffers = device.work().ffn;
  const size_t tokens = lists.count(expert), step = D::kSizes.row_step;
  for (size_t done = 0; done < tokens; done += D::kSizes.mlp_tokens) {
    const size_t count = std::min<size_t>(D::kSizes.mlp_tokens, tokens - done);
    const size_t padded = ceil_div(count, step) * step, at = lists.begin(expert) + done;
    const RoutingBuffers& routing = device.residual().routing;
    device.gather(routing.list_tokens + at, count, padded, buffers.in);
    device.norm(buffers.in, count, spec.hidden, norm, spec.norm, buffers.in,
                device.seen(LayerFinding::expert_in(expert)));
    device.add_moments(LayerFinding::expert_in(expert), buffers.in, count, spec.hidden);
    run_mlp(device, moe.expert, buffers.in, count, padded, weights, routing.list_weights + at, buffers.y,
            LayerFinding::expert_mid(expert), device.seen(LayerFinding::expert_mid_weighted(expert)));
    device.scatter_add(buffers.y, routing.list_tokens + at, routing.list_weights + at, count);
    device.report_part(done + count, tokens);
  }
}

template <class D>
void add_experts(D& device, const DecoderSpec& spec) {
  for_mlp_tokens(device, [&](size_t begin, size_t count) {
    auto* const x = device.load(begin, count);
    const float* const sum = device.residual().sum + begin * spec.hidden;
    device.show(LayerPart::kFfn, begin, count, sum);
    device.add(sum, count, spec.hidden, x, device.seen(LayerFinding::kFfnStream));
    device.store(begin, count, x);
    device.report(begin + count);
  });
}

}  // namespace nibblecast
