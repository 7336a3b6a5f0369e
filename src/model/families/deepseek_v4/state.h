// model/families/deepseek_v4/state.h - what the forward pass keeps between calls, and its halves of a layer.
// Internal to model/deepseek_v4*.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "model/families/deepseek_v4/family.h"
#include "model/families/deepseek_v4/forward.h"
#include "model/families/deepseek_v4/rows.h"
#include "model/families/deepseek_v4/tensors.h"
#include "model/families/deepseek_v4/weights.h"
#include "ops/amax.h"
#include "ops/block_amaxes.h"
#include "ops/rope.h"
#include "ops/second_moments.h"
#include "ops/workspace.h"

namespace nibblecast {

// One token of one expert.
struct Assignment {
  uint32_t token = 0;
  float weight = 0;
};

// The shared expert as stored, kept from begin_layer() to end_layer().
struct SharedExpert {
  std::vector<std::byte> bytes[3];  // codes, then scales, of w1, w2, w3
  MlpWeights weights;               // views into `bytes`
  void keep(const MlpWeights& stored);
};

template <class T>
struct ForwardState {
  DeepseekV4Config config;
  std::vector<RowSpan> rows;
  std::vector<int32_t> ids;         // [tokens]
  std::vector<uint32_t> positions;  // [tokens], in the token's row
  Rope sliding_rope, compress_rope;
  uint64_t embedded = 0;  // rows of embed.weight seen
  uint64_t layer = 0;     // the next one, or the one between begin_layer() and end_layer()
  uint64_t next_expert = 0;
  bool in_layer = false;

  std::vector<T> streams;  // [tokens, n, D]

  // Of the layer in progress.
  Workspace<T> x_ffn;  // [tokens, D]: input of router and experts; at the end of the layer their output
  std::vector<StreamMix> mixes;                   // [tokens]
  Workspace<float> sum;                           // [tokens, D]: routed experts' outputs
  std::vector<int32_t> chosen;                    // [tokens, K]
  std::vector<std::vector<Assignment>> assigned;  // [E], tokens ascending
  SharedExpert shared;
  Workspace<T> expert_x, expert_act;  // tokens of the expert in progress: [tokens, D] and [tokens, I]
  LayerAmax amax;
  std::function<void(double done)> tick;  // may be empty
  InputScales input_scales;               // by full name
  RoundedCounter rounded_blocks;
  bool measures_moments = false;
  std::map<std::string, SecondMoments>
      moments;  // of the layer's taps; of routed experts: of the one in progress
  bool measures_blocks = false;
  TapBlocks blocks;  // of the layer
  LayerWatch watch;

  void report(double done, size_t of) const {
    if (tick) tick(done / static_cast<double>(of));
  }
  size_t tokens() const { return ids.size(); }
  std::string module(const std::string& name) const { return layer_module(layer, name); }
  // What the input of a dense module is rounded with; 0: it is not.
  float input_scale(const std::string& name) const {
    const auto found = input_scales.find(module(name));
    return found == input_scales.end() ? 0 : found->second;
  }
  // To whoever watches: y [count, D] of tokens from `first` on.
  void show(LayerPart part, size_t first, size_t count, const T* y) const;
  // Of a tap's next tokens, moments and blocks where they are measured.
  void add_moments(const char* tap, const T* x, size_t count, size_t width, size_t first = 0) {
    if (measures_moments) moments[tap].add(x, count, width, first);
    if (measures_blocks) blocks[tap].add(x, count, width);
  }
  // Of expert `expert`, whose inputs were [width] wide, behind those of the experts before.
  void end_moments(const char* tap, size_t width);
  // Error kBadInput if the input of module `name` was not finite.
  void check(const std::string& name, const Amax& input) const;
  // check(), and into the record of `tap`, whose first linear `name` is.
  void record(const char* tap, const std::string& name, const Amax& input);
};

// x [rows, width] -> y, which may be x, in NVFP4 and back (formats/nvfp4_input.h), and counted.
template <class T>
void round_inputs(ForwardState<T>& state, const T* x, size_t rows, size_t width, float input_scale, T* y);

// Before a half of a layer, for tokens [first, first + count), count <= kHyperRows: the streams mixed into x
// [count, D] and normed, all in FP32, rounded once; the largest |x| to `seen`.
template <class T>
void mix_and_norm(const ForwardState<T>& state, const HyperConnection& hyper, const std::vector<float>& norm,
                  size_t first, size_t count, T* x, StreamMix* mixes, Amax& seen);

// After it, for one token: y [D] to the streams.
template <class T>
void spread(ForwardState<T>& state, const StreamMix& mix, size_t token, const T* y, Amax& seen);

// Attention with its hyper-connection, over all rows.
template <class T>
void run_attention(ForwardState<T>& state, const AttentionWeights& weights);

// x_ffn, mixes and assigned of all tokens.
template <class T>
void run_router(ForwardState<T>& state, const FfnWeights& weights);
template <class T>
void run_expert(ForwardState<T>& state, uint64_t expert, const MlpWeights& weights);
// Shared expert, and the sum of all into the streams.
template <class T>
void finish_ffn(ForwardState<T>& state);

// Peak bytes of each half, beyond ForwardState.
template <class T>
uint64_t attention_bytes(const DeepseekV4Config& config, uint64_t tokens, uint64_t longest_row,
                         size_t threads);
template <class T>
uint64_t ffn_bytes(const DeepseekV4Config& config, uint64_t tokens, size_t threads);

}  // namespace nibblecast
