// formats/nvfp4_quantize.h - weights to NVFP4, by the weight methods of NVIDIA ModelOpt 0.47, to the byte of
// its arithmetic on the CPU. T: bf16 or float; numbers of BF16 give the same as either. The steps, each one
// FP32 rounding, are in docs/formats/nvfp4.md (A.1 ... A.8).
//
// Two passes. First the amax of the tensor, or of all members of its fused group (what an engine fuses must
// share scale_2): scan_amax and merge. Then Nvfp4Quantizer, made once from it, encodes rows in any division:
// a block depends on nothing but its 16 values, the method and the group's amax.
//
//   kMax          the block's amax goes to 6
//   kMse          of the 126 E4M3 numbers the block scale of least squared error, the smallest such
//   kWmse         the same, each squared error times its channel's weight (formats/channel_weights.h)
//   kFourOverSix  the block's amax goes to 6 or to 4, whichever has less squared error, 6 on ties; block
//   scales
//                 are normalized to 256 instead of 448, so that 1.5 times the largest is still an E4M3 number
//
// An amax of 0 (all weights of the group zero; ModelOpt writes NaN there): scale_2 = 1, block scales 1.0,
// codes 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "formats/bf16.h"
#include "formats/nvfp4.h"

namespace nibblecast {

enum class WeightMethod { kMax, kMse, kFourOverSix, kWmse };

struct AmaxScan {
  float amax = 0;                    // largest magnitude of the finite values seen
  std::optional<size_t> non_finite;  // index of the first NaN or infinity

  void merge(const AmaxScan& other);  // amax of both; non_finite: this one's if it has one
};
AmaxScan scan_amax(const bf16* values, size_t count);
AmaxScan scan_amax(const float* values, size_t count);

// Sums over one row, in double: 16 partial sums by column mod 16, each in ascending order, added in
// ascending order. Equal for every instruction set and division of the rows.
struct RowLoss {
  double squared_error = 0;  // (value - dequantized)^2, the dequantized value in FP32
  double squares = 0;        // value^2
  bool operator==(const RowLoss&) const = default;
};

// weight_scale_2 of a group of this amax: amax / 2688; with kFourOverSix amax / 1536; 1 for amax 0.
float nvfp4_scale_2(WeightMethod method, float amax);

struct MseTable;  // kMse, kWmse: the candidates, and the squared error of each BF16 magnitude under each

// Immutable; encode may run in several threads. With kMse and kWmse it holds up to 1.6 MB.
class Nvfp4Quantizer {
 public:
  // Requires amax finite and >= 0.
  Nvfp4Quantizer(WeightMethod method, float amax);
  ~Nvfp4Quantizer();
  Nvfp4Quantizer(Nvfp4Quantizer&&) noexcept;
  Nvfp4Quantizer& operator=(Nvfp4Quantizer&&) noexcept;

  float scale_2() const { return scale_2_; }

  // values [rows, cols], cols % 16 == 0, finite, none above the amax in magnitude -> codes [rows, cols / 2]
  // and block_scales [rows, cols / 16], which may be unaligned. losses [rows], unless null; unweighted with
  // any method. channel_weights [cols], finite and > 0: of kWmse, which must have them; others look at none.
  template <class T>
  void encode(const T* values, size_t rows, size_t cols, uint8_t* codes, uint8_t* block_scales,
              RowLoss* losses = nullptr, const float* channel_weights = nullptr) const;
  // The definition: kMse and kWmse try all candidates. Same bytes and sums.
  template <class T>
  void encode_ref(const T* values, size_t rows, size_t cols, uint8_t* codes, uint8_t* block_scales,
                  RowLoss* losses = nullptr, const float* channel_weights = nullptr) const;

 private:
  template <class T>
  void encode_plain(const T* values, size_t rows, size_t cols, uint8_t* codes, uint8_t* block_scales,
                    RowLoss* losses, const float* channel_weights, bool prune) const;

  WeightMethod method_;
  float amax_;
  float scale_2_;
  std::unique_ptr<const MseTable> mse_;
};

}  // namespace nibblecast
