// tests/model/decoder_reference.h - a decoder's forward pass in the plainest form: one token and head after
// the other, all in double. Frequencies are those of ops/rope_table.h.
#pragma once

#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "decoder_testing.h"
#include "ops/rope_table.h"

namespace nibblecast::testing {

using Vector = std::vector<double>;
using Matrix = std::vector<Vector>;  // rows

class DecoderReference {
 public:
  explicit DecoderReference(const DecoderModel& model) : model_(model), spec_(model.spec()) {}

  // Of all rows, one after the other: logits [tokens][V]. Into `taps` the largest |x|, by layer and tap.
  Matrix logits(const Rows& rows) {
    for (const LayerTable& table : model_.model.table.layers) {
      taps.emplace_back();
      tokens.emplace_back(table.experts);
    }
    Matrix all;
    for (const std::vector<int32_t>& row : rows) {
      Matrix x;
      const Vector embedding = values(model_.embedding_name());
      for (const int32_t id : row) {
        const auto begin = embedding.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(id) * spec_.hidden);
        x.emplace_back(begin, begin + static_cast<ptrdiff_t>(spec_.hidden));
      }
      for (layer_ = 0; layer_ < spec_.layers.size(); ++layer_) run_layer(x);
      const Vector head = values(model_.head_name());
      for (const Vector& token : x) all.push_back(multiply(head, norm(token, plain(Role::kFinalNorm))));
    }
    return all;
  }

  std::vector<std::map<std::string, Vector>> taps;
  std::vector<std::vector<int64_t>> tokens;

 private:
  const LayerTable& table() const {
    return layer_ < spec_.layers.size() ? model_.model.table.layers[layer_] : model_.model.table.globals;
  }
  Vector values(const std::string& name) const {
    const std::vector<float> values = model_.values(name);
    return Vector(values.begin(), values.end());
  }
  Vector plain(Role role) const { return values(table().find_plain(role)->name); }

  static Vector multiply(const Vector& weight, const Vector& x) {
    Vector y(weight.size() / x.size());
    for (size_t row = 0; row < y.size(); ++row)
      y[row] = std::inner_product(x.begin(), x.end(), weight.begin() + static_cast<ptrdiff_t>(row * x.size()),
                                  0.0);
    return y;
  }
  // x · weightᵀ + bias of all tokens.
  Matrix linear(const ModuleId& id, const Matrix& x, bool bias) const {
    const std::string name = DecoderModel::module(table(), id);
    const Vector weight = values(name + ".weight");
    const Vector added = bias ? values(name + ".bias") : Vector();
    Matrix y;
    for (const Vector& token : x) {
      y.push_back(multiply(weight, token));
      for (size_t i = 0; i < added.size(); ++i) y.back()[i] += added[i];
    }
    return y;
  }
  Vector norm(const Vector& x, const Vector& weight) const { return norm(x, weight, spec_.norm.eps); }
  Vector norm(const Vector& x, const Vector& weight, float eps) const {
    const double mean =
        std::inner_product(x.begin(), x.end(), x.begin(), 0.0) / static_cast<double>(x.size());
    Vector y = x;
    const double more = spec_.norm.use == NormWeight::kPlusOne ? 1 : 0;
    for (size_t i = 0; i < x.size(); ++i) y[i] *= (weight[i] + more) / std::sqrt(mean + double{eps});
    return y;
  }
  static double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
  static double silu(double x) { return x * sigmoid(x); }
  void see(const std::string& tap, const Matrix& x, size_t index = 0, size_t of = 1) {
    Vector& seen = taps[layer_][tap];
    seen.resize(of);
    for (const Vector& token : x)
      for (const double value : token) seen[index] = std::max(seen[index], std::fabs(value));
  }

  void run_layer(Matrix& x) {
    const DecoderLayer& layer = spec_.layers[layer_];
    const Matrix normed_x = normed(x, Role::kInputNorm);
    add(x, std::visit([&](const auto& mixer) { return mix(mixer, normed_x); }, layer.mixer));
    const Matrix in = normed(x, Role::kFfnNorm);
    see("ffn.in", in);
    if (const auto* mlp = std::get_if<MlpSpec>(&layer.ffn)) {
      add(x, run_mlp(*mlp, {}, in, "ffn.mid", 0, 1));
    } else {
      add(x, experts(std::get<MoeSpec>(layer.ffn), in));
    }
  }
  Matrix normed(const Matrix& x, Role role) const {
    const Vector weight = plain(role);
    Matrix y;
    for (const Vector& token : x) y.push_back(norm(token, weight));
    return y;
  }
  static void add(Matrix& x, const Matrix& y) {
    for (size_t token = 0; token < x.size(); ++token)
      for (size_t i = 0; i < x[token].size(); ++i) x[token][i] += y[token][i];
  }

  // Heads of a row: normed, turned.
  void prepare(const GqaSpec& gqa, Matrix& x, size_t heads, Role role) const {
    const RopeTable rope = gqa.rope.dims == 0 ? RopeTable() : rope_table(gqa.rope);
    for (size_t position = 0; position < x.size(); ++position) {
      Vector& token = x[position];
      if (gqa.head_norms == HeadNorms::kAll) token = norm(token, plain(role));
      for (size_t head = 0; head < heads; ++head) {
        const auto begin = token.begin() + static_cast<ptrdiff_t>(head * gqa.width);
        Vector own(begin, begin + static_cast<ptrdiff_t>(gqa.width));
        if (gqa.head_norms == HeadNorms::kPerHead) own = norm(own, plain(role));
        turn(gqa.rope, rope, position, own);
        std::copy(own.begin(), own.end(), begin);
      }
    }
  }
  static void turn(const RopeSpec& spec, const RopeTable& rope, size_t position, Vector& x) {
    for (size_t pair = 0; pair < spec.dims / 2; ++pair) {
      const bool halves = spec.pairing == RopePairing::kHalves;
      double &a = x[halves ? pair : 2 * pair], &b = x[halves ? pair + spec.dims / 2 : 2 * pair + 1];
      const double angle = double{static_cast<float>(position) * rope.frequencies[pair]};  // as transformers
      const double cos = std::cos(angle) * double{rope.factor}, sin = std::sin(angle) * double{rope.factor};
      const double turned = a * cos - b * sin;
      b = b * cos + a * sin;
      a = turned;
    }
  }

  // Of q with gates: they, which q loses.
  static Matrix take_gates(const GqaSpec& gqa, Matrix& q) {
    Matrix gates;
    for (Vector& token : q) {
      Vector queries, own;
      for (size_t head = 0; head < gqa.heads; ++head) {
        const auto begin = token.begin() + static_cast<ptrdiff_t>(2 * head * gqa.width);
        const auto middle = begin + static_cast<ptrdiff_t>(gqa.width);
        queries.insert(queries.end(), begin, middle);
        own.insert(own.end(), middle, middle + static_cast<ptrdiff_t>(gqa.width));
      }
      token = queries;
      gates.push_back(own);
    }
    return gates;
  }
  Matrix mix(const GqaSpec& gqa, const Matrix& in) {
    see("attn.in", in);
    Matrix q = linear({.role = Role::kQ}, in, gqa.qkv_bias), k = linear({.role = Role::kK}, in, gqa.qkv_bias);
    const Matrix v = linear({.role = Role::kV}, in, gqa.qkv_bias);
    const Matrix gates = gqa.output_gate ? take_gates(gqa, q) : Matrix();
    prepare(gqa, q, gqa.heads, Role::kQNorm);
    prepare(gqa, k, gqa.kv_heads, Role::kKNorm);
    const Vector sinks = gqa.sinks ? plain(Role::kSinks) : Vector();
    return linear({.role = Role::kO}, attend(score_shape(gqa), q, k, v, sinks, gates), gqa.o_bias);
  }

  Matrix mix(const MlaSpec& mla, const Matrix& in) {
    see("attn.in", in);
    const LatentHeads& heads = mla.heads;
    const RopeTable rope = mla.rope.dims == 0 ? RopeTable() : rope_table(mla.rope);
    Matrix q = mla.q_rank == 0 ? linear({.role = Role::kQ}, in, false)
                               : linear({.role = Role::kQB},
                                        rank(mla, Role::kQA, Role::kQRankNorm, "attn.q_rank", in, 0), false);
    const Matrix expanded =
        linear({.role = Role::kKvB},
               rank(mla, Role::kKvA, Role::kKvRankNorm, "attn.kv_rank", in, heads.shared), false);
    const Matrix kv_a = linear({.role = Role::kKvA}, in, false);
    Matrix k, v;
    for (size_t position = 0; position < in.size(); ++position) {
      Vector shared(kv_a[position].end() - static_cast<ptrdiff_t>(heads.shared), kv_a[position].end());
      turn(mla.rope, rope, position, shared);
      k.emplace_back(), v.emplace_back();
      for (size_t head = 0; head < heads.heads; ++head) {
        const auto from = expanded[position].begin() + static_cast<ptrdiff_t>(head * heads.expanded_width());
        const auto middle = from + static_cast<ptrdiff_t>(heads.key);
        k.back().insert(k.back().end(), from, middle);
        k.back().insert(k.back().end(), shared.begin(), shared.end());
        v.back().insert(v.back().end(), middle, middle + static_cast<ptrdiff_t>(heads.value));
        const auto end = q[position].begin() + static_cast<ptrdiff_t>((head + 1) * heads.key_width());
        const auto begin = end - static_cast<ptrdiff_t>(heads.shared);
        Vector own(begin, end);
        turn(mla.rope, rope, position, own);
        std::copy(own.begin(), own.end(), begin);
      }
    }
    return linear({.role = Role::kO}, attend(score_shape(mla), q, k, v, {}, {}), false);
  }
  // norm(linear x), without the last `rest` channels.
  Matrix rank(const MlaSpec& mla, Role role, Role norm_role, const std::string& tap, const Matrix& in,
              size_t rest) {
    Matrix latent = linear({.role = role}, in, false);
    for (Vector& token : latent) {
      token.resize(token.size() - rest);
      token = norm(token, plain(norm_role), mla.rank_eps);
    }
    see(tap, latent);
    return latent;
  }

  Matrix attend(const GqaShape& shape, const Matrix& q, const Matrix& k, const Matrix& v, const Vector& sinks,
                const Matrix& gates) {
    see("attn.k", k);
    see("attn.v", v);
    Matrix out(q.size(), Vector(shape.heads * shape.value_width));
    for (size_t query = 0; query < q.size(); ++query) {
      for (size_t head = 0; head < shape.heads; ++head)
        attend(shape, q, k, v, query, head, sinks.empty() ? nullptr : &sinks[head], out[query]);
      for (size_t i = 0; i < out[query].size() && !gates.empty(); ++i)
        out[query][i] *= sigmoid(gates[query][i]);
    }
    see("attn.out", out);
    return out;
  }
  static void attend(const GqaShape& shape, const Matrix& q, const Matrix& k, const Matrix& v, size_t query,
                     size_t head, const double* sink, Vector& out) {
    const size_t kv = head / shape.group(), width = shape.key_width, value = shape.value_width;
    const size_t first = shape.window == 0 || query < shape.window ? 0 : query - shape.window + 1;
    Vector scores;
    double largest = sink == nullptr ? -1e300 : *sink;
    for (size_t key = first; key <= query; ++key) {
      double score = 0;
      for (size_t i = 0; i < width; ++i) score += q[query][head * width + i] * k[key][kv * width + i];
      scores.push_back(score * double{shape.scale});
      largest = std::max(largest, scores.back());
    }
    double sum = sink == nullptr ? 0 : std::exp(*sink - largest);
    for (double& score : scores) sum += score = std::exp(score - largest);
    for (size_t key = first; key <= query; ++key) {
      for (size_t i = 0; i < value; ++i)
        out[head * value + i] += scores[key - first] / sum * v[key][kv * value + i];
    }
  }

  // One token's [q | k | v], z, b and a, however its products hold them.
  struct DeltaInput {
    Vector qkv, z, b, a;
  };
  std::vector<DeltaInput> delta_inputs(const DeltaNetSpec& net, const Matrix& in) const {
    const auto product = [&](Role role) { return linear({.role = role}, in, false); };
    std::vector<DeltaInput> inputs;
    if (net.input == DeltaNetInput::kSplit) {
      const Matrix qkv = product(Role::kDeltaQkv), z = product(Role::kDeltaZ), b = product(Role::kDeltaB),
                   a = product(Role::kDeltaA);
      for (size_t token = 0; token < in.size(); ++token)
        inputs.push_back({qkv[token], z[token], b[token], a[token]});
      return inputs;
    }
    const Matrix qkvz = product(Role::kDeltaQkvz), ba = product(Role::kDeltaBa);
    for (size_t token = 0; token < in.size(); ++token)
      inputs.push_back(dealt(net.shape, qkvz[token], ba[token]));
    return inputs;
  }
  // Of the heads of q, then those of k, v, ...: each key head has its own of all.
  static DeltaInput dealt(const DeltaNetShape& shape, const Vector& qkvz, const Vector& ba) {
    const size_t values = shape.group() * shape.value_width, own = 2 * shape.key_width + 2 * values;
    const auto part = [&](const Vector& from, size_t stride, size_t begin, size_t width, Vector& to) {
      for (size_t head = 0; head < shape.key_heads; ++head)
        for (size_t i = 0; i < width; ++i) to.push_back(from[head * stride + begin + i]);
    };
    DeltaInput input;
    part(qkvz, own, 0, shape.key_width, input.qkv);
    part(qkvz, own, shape.key_width, shape.key_width, input.qkv);
    part(qkvz, own, 2 * shape.key_width, values, input.qkv);
    part(qkvz, own, 2 * shape.key_width + values, values, input.z);
    part(ba, 2 * shape.group(), 0, shape.group(), input.b);
    part(ba, 2 * shape.group(), shape.group(), shape.group(), input.a);
    return input;
  }
  Matrix mix(const DeltaNetSpec& net, const Matrix& in) {
    see("attn.in", in);
    const DeltaNetShape& shape = net.shape;
    const std::vector<DeltaInput> inputs = delta_inputs(net, in);
    const Vector filter = plain(Role::kFilter);
    Matrix convolved(in.size(), Vector(shape.channels())), out(in.size(), Vector(shape.values()));
    for (size_t token = 0; token < in.size(); ++token) {
      for (size_t channel = 0; channel < shape.channels(); ++channel) {
        double sum = 0;
        for (size_t back = 0; back < std::min(shape.taps, token + 1); ++back)
          sum += inputs[token - back].qkv[channel] * filter[(channel + 1) * shape.taps - 1 - back];
        convolved[token][channel] = silu(sum);
      }
    }
    for (size_t head = 0; head < shape.value_heads; ++head) run_head(shape, head, inputs, convolved, out);
    see("attn.out", out);
    return linear({.role = Role::kO}, out, false);
  }
  static Vector unit(const Vector& from, size_t begin, size_t width, double factor) {
    const auto first = from.begin() + static_cast<ptrdiff_t>(begin);
    Vector x(first, first + static_cast<ptrdiff_t>(width));
    const double length = std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0) + 1e-6);
    for (double& value : x) value *= factor / length;
    return x;
  }
  void run_head(const DeltaNetShape& shape, size_t head, const std::vector<DeltaInput>& inputs,
                const Matrix& convolved, Matrix& out) const {
    const double rate = std::exp(plain(Role::kDecayLog)[head]), bias = plain(Role::kStepBias)[head];
    const Vector weight = plain(Role::kOutNorm);
    const size_t key_at = head / shape.group() * shape.key_width, width = shape.value_width;
    Matrix state(shape.key_width, Vector(width));
    for (size_t token = 0; token < inputs.size(); ++token) {
      const Vector& own = convolved[token];
      const Vector q =
          unit(own, key_at, shape.key_width, 1 / std::sqrt(static_cast<double>(shape.key_width)));
      const Vector k = unit(own, shape.keys() + key_at, shape.key_width, 1);
      const double decay = std::exp(-rate * std::log1p(std::exp(inputs[token].a[head] + bias)));
      const double beta = sigmoid(inputs[token].b[head]);
      double squares = 0;
      for (size_t j = 0; j < width; ++j) {
        double found = 0, o = 0;
        for (size_t i = 0; i < shape.key_width; ++i) found += decay * state[i][j] * k[i];
        const double change = beta * (own[2 * shape.keys() + head * width + j] - found);
        for (size_t i = 0; i < shape.key_width; ++i) {
          state[i][j] = decay * state[i][j] + k[i] * change;
          o += state[i][j] * q[i];
        }
        out[token][head * width + j] = o;
        squares += o * o;
      }
      const double length = std::sqrt(squares / static_cast<double>(width) + double{spec_.norm.eps});
      for (size_t j = 0; j < width; ++j)
        out[token][head * width + j] *= weight[j] / length * silu(inputs[token].z[head * width + j]);
    }
  }

  static double activated(const Activation& activation, double gate, double up) {
    if (activation.kind == ActivationKind::kRelu2) return up < 0 ? 0 : up * up;
    if (activation.kind == ActivationKind::kSilu) return gate / (1 + std::exp(-gate)) * up;
    return gate / 2 * (1 + std::tanh(0.7978845608028654 * (gate + 0.044715 * gate * gate * gate))) * up;
  }
  // The mid's tap at `index` of `of`.
  Matrix run_mlp(const MlpSpec& mlp, ModuleId id, const Matrix& in, const std::string& tap, size_t index,
                 size_t of) {
    const auto part = [&](Role role, const Matrix& x) {
      id.role = role;
      return linear(id, x, mlp.bias);
    };
    Matrix mid = part(Role::kUp, in);
    const Matrix gate = mlp.activation.gated() ? part(Role::kGate, in) : mid;
    for (size_t token = 0; token < in.size(); ++token)
      for (size_t i = 0; i < mlp.width; ++i)
        mid[token][i] = activated(mlp.activation, gate[token][i], mid[token][i]);
    see(tap, mid, index, of);
    return part(Role::kDown, mid);
  }

  Matrix experts(const MoeSpec& moe, const Matrix& in) {
    Matrix sum(in.size(), Vector(spec_.hidden));
    if (moe.shared) {
      Matrix shared = run_mlp(*moe.shared, {.shared = true}, in, "shared.mid", 0, 1);
      if (moe.shared_gate) {
        const Matrix gates = linear({.shared = true, .role = Role::kSharedGate}, in, false);
        for (size_t token = 0; token < in.size(); ++token)
          for (double& value : shared[token]) value *= sigmoid(gates[token][0]);
      }
      add(sum, shared);
    }
    const Matrix logits = linear({.role = Role::kRouter}, in, false);
    for (size_t token = 0; token < in.size(); ++token) {
      for (const auto& [expert, weight] : route(moe, logits[token])) {
        const size_t of = moe.router.experts;
        see("experts.in", {in[token]}, expert, of);
        const Vector before = taps[layer_]["experts.mid"];
        taps[layer_]["experts.mid"] = Vector(of);
        const Matrix out = run_mlp(moe.expert, {.expert = static_cast<int32_t>(expert)}, {in[token]},
                                   "experts.mid", expert, of);
        const double mid = taps[layer_]["experts.mid"][expert];
        if (!before.empty()) taps[layer_]["experts.mid"] = before;
        see("experts.mid", {{mid}}, expert, of);
        see("experts.mid_weighted", {{mid * weight}}, expert, of);
        ++tokens[layer_][expert];
        for (size_t i = 0; i < spec_.hidden; ++i) sum[token][i] += out[0][i] * weight;
      }
    }
    return sum;
  }

  // Indices of the `count` largest.
  static std::vector<size_t> largest(const Vector& values, size_t count) {
    std::vector<size_t> order(values.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::stable_sort(order, [&](size_t a, size_t b) { return values[a] > values[b]; });
    order.resize(count);
    return order;
  }
  std::vector<std::pair<size_t, double>> route(const MoeSpec& moe, const Vector& logits) const {
    const RouterSpec& router = moe.router;
    Vector scores = logits;
    double total = 0;
    for (double& score : scores) total += std::exp(score);
    for (double& score : scores)
      score = router.score == RouterScore::kSigmoid ? 1 / (1 + std::exp(-score)) : std::exp(score) / total;
    Vector choices = scores;
    if (moe.choice_bias) {
      const Vector bias = plain(Role::kRouterBias);
      for (size_t i = 0; i < bias.size(); ++i) choices[i] += bias[i];
    }
    keep_groups(router, choices);
    std::vector<std::pair<size_t, double>> chosen;
    double sum = 0;
    for (const size_t expert : largest(choices, router.top)) {
      chosen.emplace_back(expert, scores[expert]);
      sum += scores[expert];
    }
    for (auto& [expert, weight] : chosen) {
      if (router.renormalize) weight /= sum + double{router.eps};
      weight *= double{router.scale};
    }
    return chosen;
  }
  static void keep_groups(const RouterSpec& router, Vector& choices) {
    const size_t size = router.experts / router.groups;
    if (router.groups == 1) return;
    Vector worth;
    for (size_t group = 0; group < router.groups; ++group) {
      const Vector own(choices.begin() + static_cast<ptrdiff_t>(group * size),
                       choices.begin() + static_cast<ptrdiff_t>((group + 1) * size));
      const std::vector<size_t> best = largest(own, 2);
      worth.push_back(own[best[0]] + own[best[1]]);
    }
    const std::vector<size_t> kept = largest(worth, router.top_groups);
    for (size_t expert = 0; expert < choices.size(); ++expert)
      if (std::ranges::count(kept, expert / size) == 0) choices[expert] = -1e300;
  }

  const DecoderModel& model_;
  const DecoderSpec& spec_;
  size_t layer_ = 0;
};

}  // namespace nibblecast::testing
