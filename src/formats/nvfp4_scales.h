// formats/nvfp4_scales.h - the scalar steps of nvfp4_quantize that its reference and its kernels share. Not
// for other folders.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "formats/kernels.h"
#include "formats/nvfp4_quantize.h"

namespace nibblecast {

inline constexpr size_t kMseCandidates = kSweepScales;  // the positive finite E4M3 numbers

// What a weight method makes of the group's amax G > 0. (ModelOpt: nvfp4_tensor.py, calib/mse.py,
// fp4_kernel.py compute_fp4_scales, tensor_quant.py _fp8_eager.)
class Nvfp4Scales {
 public:
  Nvfp4Scales(WeightMethod method, float amax, float scale_2);

  // The E4M3 byte for a block whose largest magnitude is block_amax, kMax.
  uint8_t dynamic_scale(float block_amax) const;
  // The E4M3 byte for a chosen block amax, kMse and kFourOverSix.
  uint8_t static_scale(float block_amax) const;
  // The scale a search tries for a block amax: block_amax / 6 through E4M3. 0: everything becomes 0.
  float search_scale(float block_amax) const;
  // kMse: the block amax of candidate k.
  float candidate_amax(size_t k) const;

 private:
  float amax_;
  float fp8_max_;                      // 448; 256 with kFourOverSix
  float dynamic_divisor_;              // 6 * scale_2
  float static_divisor_;               // amax / 6
  float to_e4m3_ = 1, from_e4m3_ = 1;  // of search_scale
};

// The sum of 16 squared errors in the order of PyTorch's CPU sum over a row of 16 floats:
// ((e0 + e8) + (e1 + e9)) + ... + (e7 + e15), from the left.
float sum_of_16(const float* errors);

template <class T>
AmaxScan scan_amax_ref(const T* values, size_t count);

// The index of the sweep's choice for a block of 16 values: of all candidates, or of those that can have the
// least loss. The same. `weights` [16]; null: all 1.
uint8_t sweep_all(const float* values, const float* weights, const SweepScales& scales);
uint8_t sweep_pruned(const float* values, const float* weights, const SweepScales& scales);
// The candidates of a group.
SweepScales sweep_scales(const Nvfp4Scales& scales);

// (|x| - q * scale)^2 with q the nearest E2M1 magnitude to |x| / scale; scale 0: x^2.
float squared_error(float x, float scale);

}  // namespace nibblecast
