// weights/container.h - how a linear's weight lies in a checkpoint: which tensors, under which names, in
// which dtypes and shapes, and what its values are. The one place that knows; every reader asks here.
//
// Containers are rows of a table (container.cpp):
//
//   plain        X.weight BF16, F16 or F32 [out, in]
//   FP8 tiles    X.weight F8_E4M3 [out, in], a scale a tile of weight_block_size: X.scale (F8_E8M0, F32;
//                DeepSeek-V4), X.weight_scale_inv (F32, BF16, F16, F8_E8M0; DeepSeek-V3, Qwen, GLM),
//                X.weight_scale (F32, 128 x 128, also [out/128, 1, in/128, 1]; ModelOpt FP8_PB_WO,
//                compressed-tensors)
//   FP8          X.weight F8_E4M3, X.weight_scale F32, BF16 or F16: of one value, or a scale a row, [out] or
//                [out, 1]
//   MXFP8        X.weight F8_E4M3, X.weight_scale U8 or F8_E8M0 [out, in/32]
//   MXFP4        X.weight I8, U8 [out, in/2] or F4 [out, in], X.scale F8_E8M0 or U8 [out, in/32]
//   the same     X.weight_packed U8 [out, in/2], X.weight_scale U8 or F8_E8M0 [out, in/32]
//                (compressed-tensors, mxfp4-pack-quantized)
//   int4         X.weight_packed I32 [out, in/8], X.weight_scale BF16, F16 or F32 [out, in/group], the
//                group a multiple of 8 (whole rows too), X.weight_shape I32 or I64, of two values: out, in
//                (compressed-tensors, pack-quantized, symmetric; Kimi-K2-Thinking and later)
//   NVFP4        X.weight U8 [out, in/2] or F4 [out, in], X.weight_scale F8_E4M3 [out, in/16],
//                X.weight_scale_2 F32 of one value
//   the same     X.weight_packed, X.weight_scale, X.weight_global_scale F32 of one value: 1 / weight_scale_2
//                (compressed-tensors, nvfp4-pack-quantized)
//
// Of stacks, find_stack() tells.
//
// (spec of the names: DeepSeek-V4 inference/convert.py; transformers 5.23 quantizers; ModelOpt 0.48
// export/quant_utils.py; compressed-tensors 0.20)
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/tensor.h"
#include "formats/stored_linear.h"

namespace nibblecast {

// quantization_config.weight_block_size of a config, wherever it is nested; 128 x 128 where it says nothing.
// `groups`: how many columns may share a scale of integers, each group_size of config_groups' weights; empty
// where one of them says nothing of use. Error kUnsupported: sections that differ in weight_block_size;
// kBadInput: no pair of positive integers.
struct TileSize {
  uint64_t rows = 128, cols = 128;
  std::vector<uint64_t> groups = {};
  bool operator==(const TileSize&) const = default;
};
TileSize tile_size(const Json& config, const std::string& file);

enum class StoredFormat : uint8_t { kBf16, kF32, kFp8, kMxfp4, kNvfp4, kInt4, kF16 };

// Of values without scales; nothing for a dtype that no weight has by itself.
std::optional<StoredFormat> plain_format(Dtype dtype);
bool is_plain(StoredFormat format);

// What a linear's bytes mean.
struct LinearFormat {
  StoredFormat stored = StoredFormat::kBf16;
  uint64_t rows = 0, cols = 0;                // of values
  ScaleType scale_type = ScaleType::kE8M0;    // kFp8, kInt4
  uint64_t tile_rows = 128, tile_cols = 128;  // kFp8, kInt4: values that share a scale
  // kNvfp4: the tensors of scale_2 and of the input's scale hold their reciprocals. 1 / x, rounded once, is
  // the scale then, as vLLM has it when it loads them.
  bool reciprocal_scales = false;
  bool operator==(const LinearFormat&) const = default;

  // Bytes of rows [first, first + count) of the weight and of its scales, from the part's begin. `first` is a
  // multiple of scale_rows().
  struct Bytes {
    uint64_t begin = 0, size = 0;
  };
  Bytes weight_bytes(uint64_t first, uint64_t count) const;
  Bytes scale_bytes(uint64_t first, uint64_t count) const;  // size 0: it has none
  uint64_t scale_rows() const;  // rows that share a row of scales, of several such; 1 where all share one

  // The view of `count` rows in memory that holds their bytes; `scale_2` is NVFP4's.
  StoredLinear view(uint64_t count, const std::byte* weight, const std::byte* scale,
                    std::span<const std::byte> scale_2) const;
};

// A linear in a set of tensors; null where there is no such part.
struct LinearParts {
  LinearFormat format = {};
  const Tensor *weight = nullptr, *scale = nullptr, *scale_2 = nullptr;
  const Tensor* shape = nullptr;  // X.weight_shape: its data says the values' shape once more
  // X.input_scale, X.input_global_scale: of activations, no part of the weight.
  const Tensor* input_scale = nullptr;
  const char* container = "";  // in words: "FP8 blocks"

  // f(tensor) for the weight and what goes with it, scales of activations aside.
  template <class F>
  void for_parts(const F& f) const {
    for (const Tensor* part : {weight, scale, scale_2, shape})
      if (part != nullptr) f(*part);
  }
};

using FindTensor = std::function<const Tensor*(const std::string& name)>;
// For messages: the file that holds a tensor.
using LocateTensor = std::function<Where(const Tensor&)>;

// The linear named `module`. Nothing where there is no tensor of its weight: "MODULE.weight", or
// "MODULE.weight_packed". Errors: kBadInput: its scale
// is missing, a part's shape does not fit its weight; kUnsupported: dtypes that no container has.
std::optional<LinearParts> find_linear(const std::string& module, const TileSize& tiles,
                                       const FindTensor& find, const LocateTensor& where);
std::optional<LinearParts> find_linear(const Checkpoint& source, const std::string& module,
                                       const TileSize& tiles);

// All experts of a layer in one tensor, as the matrices [out, in] that follow each other in `shape`
// [count * out, in]:
//   X         BF16, F16 or F32 [count, in, out] (Llama-4): each matrix lies there transposed, which whoever
//             reads its bytes by rows must turn
//   X_blocks  U8 [count, out, in/32, 16], with X_scales U8 [count, out, in/32] (gpt-oss: MXFP4)
// Nothing where there is no such tensor. kBadInput: a shape does not fit; kUnsupported: another dtype.
std::optional<LinearParts> find_stack(const Checkpoint& source, const std::string& module, uint64_t count,
                                      const Shape& shape);

// X of "X.weight" or "X.weight_packed"; empty for a tensor of another name.
std::string_view module_of_weight(std::string_view tensor);

// The scale that the input of this linear is rounded with: one F32 value, as engines read it
// (docs/engines.md). Nothing where there is none. kBadInput: it is something else, or not above 0 and finite.
std::optional<float> read_input_scale(const Checkpoint& source, const LinearParts& parts,
                                      TensorReader& reader);

// kBadInput: the bytes of X.weight_shape, `tensor`, do not say the format's rows and columns.
void check_weight_shape(const LinearFormat& format, const Tensor& tensor, std::span<const std::byte> bytes,
                        const Where& where);

inline constexpr uint32_t kNoTensor = UINT32_MAX;

// Bytes [begin, begin + size_bytes) of a source tensor: all of it, or an equal part of a stack.
struct Slice {
  uint32_t tensor = kNoTensor;  // index into the source's tensors()
  uint64_t begin = 0, size_bytes = 0;
  bool is_there() const { return tensor != kNoTensor; }
  bool operator==(const Slice&) const = default;
};

// A linear in a checkpoint.
struct LinearSource {
  LinearFormat format = {};
  Slice weight = {}, scale = {}, scale_2 = {}, shape = {};

  // Those that are there, in this order.
  template <class F>
  void for_parts(const F& f) const {
    for (const Slice* part : {&weight, &scale, &scale_2, &shape})
      if (part->is_there()) f(*part);
  }
  // Of rows [first, first + count): what of a part is needed. Parts without rows come whole.
  Slice rows_of(const Slice& part, uint64_t first, uint64_t count) const;
  // The view of rows in memory: one span for each part that is there, in their order.
  StoredLinear view(uint64_t count, std::span<const std::span<const std::byte>> parts) const;
  // Of the same parts: kBadInput where the weight's shape stands there and is another.
  void check(const Checkpoint& source, std::span<const std::span<const std::byte>> parts) const;
  uint64_t size_bytes() const {
    return weight.size_bytes + scale.size_bytes + scale_2.size_bytes + shape.size_bytes;
  }
};

LinearSource source_of(const Checkpoint& source, const LinearParts& parts);
// A BF16, F16 or F32 tensor of any name and rank, as rows of its last dimension. kUnsupported: another dtype.
LinearSource plain_source(const Checkpoint& source, uint32_t tensor);
// Rows [first_row, first_row + rows) of those: a matrix of a stack.
LinearSource stacked_source(const Checkpoint& source, uint32_t tensor, uint64_t first_row, uint64_t rows);

}  // namespace nibblecast
