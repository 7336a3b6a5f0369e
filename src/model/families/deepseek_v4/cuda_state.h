// model/families/deepseek_v4/cuda_state.h - what the forward pass on a CUDA device keeps between calls, and its parts
// of a layer. Internal to model/deepseek_v4_cuda*.cpp.
//
// Two streams: weights cross the bus on `copying`, everything else happens on `computing`, in the order of
// calls.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/cuda.h"
#include "base/cuda_clock.h"
#include "model/families/deepseek_v4/cuda_memory.h"
#include "model/families/deepseek_v4/rows.h"
#include "model/families/deepseek_v4/tensors.h"
#include "model/families/deepseek_v4/weights.h"
#include "model/forward_pass.h"
#include "ops/attention_cuda.h"
#include "ops/hyper_connection_cuda.h"
#include "ops/matmul_cuda.h"
#include "ops/router_cuda.h"

namespace nibblecast {

// What the time of a layer goes into.
enum class Part {
  kDequantize,
  kAttentionProducts,
  kExpertProducts,
  kAttention,  // its core
  kKeys,       // norms, RoPE, compressed entries, indexer
  kMix,        // streams into one vector
  kSpread,     // and back
  kExperts,    // router, gather, SwiGLU, scatter
  kHead,       // all of it
  kCount
};
inline constexpr const char* kPartNames[] = {
    "dequantize", "attention products", "expert products", "attention core",
    "keys",       "mix streams",        "spread streams",  "route and move",
    "head"};

template <class T>
struct CudaHyper {
  HyperConnectionView view;
  const T* fn = nullptr;  // [parts * outputs, n * D]
};

struct CudaCompressor {
  CompressorView view;
  const void *wkv = nullptr, *wgate = nullptr;  // [channels, D] in T
};

// The dense weights of a layer in the form in which kernels take them.
template <class T>
struct CudaAttentionWeights {
  CudaHyper<T> hyper = {};
  const float *attn_norm = nullptr, *q_norm = nullptr, *kv_norm = nullptr, *sinks = nullptr;
  const T *wq_a = nullptr, *wq_b = nullptr, *wkv = nullptr, *wo_a = nullptr, *wo_b = nullptr;
  std::optional<CudaCompressor> compressor = {}, index_compressor = {};
  const T *index_wq_b = nullptr, *index_weights = nullptr;
};

template <class T>
struct CudaFfnWeights {
  CudaHyper<T> hyper = {};
  const float* ffn_norm = nullptr;
  const T* gate = nullptr;
  RouterView router = {};
  MlpWeights shared = {};  // views into device memory
};

// A group of rows, as the host and as the kernels see it.
struct CudaGroup {
  RowGroup rows;
  std::vector<RowSpan> spans = {};  // tokens count from the group's first
  // In device memory. One set for each ratio of compression that layers have.
  struct Entries {
    const RowOfGroup* rows = nullptr;
    size_t most = 0;                   // entries of a row
    std::vector<uint32_t> first = {};  // of each row
  };
  std::unordered_map<uint32_t, Entries> entries = {};  // by ratio; 0: rows without entries
  struct Chunk {
    size_t begin = 0, tokens = 0;  // of the group
    const QueryBlock* blocks = nullptr;
    size_t block_count = 0;
  };
  std::vector<Chunk> chunks = {};
};

template <class T>
class CudaForwardState {
 public:
  CudaForwardState(const DeepseekV4Config& model, const TokenRows& token_rows, const ForwardDevice& where);

  DeepseekV4Config config;
  ForwardDevice device;
  CudaWorkload workload;
  std::vector<RowSpan> rows;
  std::vector<int32_t> ids;
  CudaMemory memory;

  CudaStream computing, copying;
  CudaProducts products;

  DeviceBuffer token_block, work_block, stored_block, vector_block, weight_block, row_block, streams_block,
      slot_block;
  Buffer host_streams;  // pinned, where they are not resident
  Buffer host_vectors;  // pinned
  std::unique_ptr<CudaTokens<T>> tokens;
  std::unique_ptr<CudaWork<T>> work;
  CudaAttentionBuffers<T>* attention = nullptr;  // of `work`
  CudaExpertBuffers<T>* expert = nullptr;
  std::vector<CudaGroup> groups;
  RopeView sliding_rope, compress_rope;

  uint64_t layer = 0;
  CudaFindings findings_at;
  InputScales input_scales;  // of the layer, by full name
  DeviceBuffer rounded;      // inputs of the linear in progress; as large as the largest so far
  LayerWatch watch;
  bool show_in_place = false;

  size_t token_count() const { return ids.size(); }
  size_t stream_width() const { return config.hc_mult * config.hidden_size; }
  uint32_t* finding(size_t index) const { return tokens->findings + index; }
  std::string module(const std::string& name) const { return layer_module(layer, name); }

  // The streams of tokens [begin, begin + count) in device memory: where they lie, or a copy in `buffer`.
  T* load_streams(size_t begin, size_t count, T* buffer);
  // After load_streams() and changes.
  void store_streams(size_t begin, size_t count, const T* buffer);

  // Weights to the device, on the stream of copies.
  void send(std::byte* to, const std::byte* from, uint64_t size_bytes);

  // What the input of a dense module is rounded with; 0: it is not.
  float input_scale(const std::string& name) const;
  // x [m, k] where a linear takes its input from.
  const T* input(const T* x, size_t m, size_t k, float scale);
  // To whoever watches: y [count, D] of tokens from `first` on.
  void show(LayerPart part, size_t first, size_t count, const T* y);

  // x · wᵀ.
  template <class Out>
  void product(const T* x, size_t m, size_t k, const T* w, size_t n, Out* y);

  template <class F>
  void timed(Part part, const F& f) {
    if (device.profile)
      clocks[static_cast<size_t>(part)].time(computing, f);
    else
      f();
  }
  std::array<CudaClock, static_cast<size_t>(Part::kCount)> clocks;
  CudaClock copy_clock, compute_clock;
  DeviceUse use;

 private:
  void upload_tokens(const TokenRows& token_rows);
  void lay_out_groups();
};

template <class T>
template <class Out>
void CudaForwardState<T>::product(const T* x, size_t m, size_t k, const T* w, size_t n, Out* y) {
  products.multiply(computing, {.m = m, .n = n, .k = k, .x_stride = k, .y_stride = n}, x, w, y);
}

// products [n, count, outputs] of each stream with its columns of fn [outputs, n * D].
template <class T>
void multiply_fn(CudaForwardState<T>& state, const T* streams, size_t count, const T* fn, size_t outputs,
                 float* products);

// Streams into x [count, D] by a layer's half: the projection, then mix_streams_cuda.
template <class T>
void mix_and_norm(CudaForwardState<T>& state, const CudaHyper<T>& hyper, const float* norm, const T* streams,
                  size_t count, T* x, StreamMix* mixes, DeviceAmax seen);

// Attention over one group of rows, whose streams are given.
template <class T>
void run_attention(CudaForwardState<T>& state, const CudaAttentionWeights<T>& weights, const CudaGroup& group,
                   T* streams);
// x_ffn, mixes, chosen experts and their weights, of one group.
template <class T>
void run_router(CudaForwardState<T>& state, const CudaFfnWeights<T>& weights, const CudaGroup& group,
                const T* streams);
// Into `sum`, for all tokens: what the routed experts' outputs are added to.
template <class T>
void run_shared_expert(CudaForwardState<T>& state, const MlpWeights& weights);
// Adds the expert's outputs for tokens list[begin, begin + count) to `sum`. `dequantized` is recorded when
// the stored weights are not read any more.
template <class T>
void run_expert(CudaForwardState<T>& state, uint64_t expert, const StoredExpert& weights, size_t list_begin,
                size_t count, CudaEvent& dequantized);
// `sum` to the streams.
template <class T>
void finish_ffn(CudaForwardState<T>& state);

}  // namespace nibblecast
