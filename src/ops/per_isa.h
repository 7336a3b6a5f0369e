// ops/per_isa.h - one plain loop, compiled once for each instruction set; cpu_isa() chooses.
//
//   template <class T>
//   [[gnu::always_inline]] inline void halve(const T* x, size_t count, float* y) { ... a loop ... }
//   per_isa<halve<T>>(x, count, y);
//
// Such loops give the same bits in every version: FP32 operations are IEEE's, contraction into fused
// multiply-adds is off, and the compiler reorders no sum. The body and what it calls must be always_inline
// or inlined by the optimizer; a body never appears as a function of its own.
#pragma once

#include "base/cpu_isa.h"

namespace nibblecast {

#if defined(NIBBLECAST_SIMD) && defined(__x86_64__)
#if defined(__clang__)
#define NIBBLECAST_TARGET_AVX512 "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"
#else  // GCC 12 prefers vectors of 256 bits unless told otherwise.
#define NIBBLECAST_TARGET_AVX512 "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,prefer-vector-width=512"
#endif

template <auto kBody, class... Args>
[[gnu::target(NIBBLECAST_TARGET_AVX512)]] auto body_for_avx512(Args... args) {
  return kBody(args...);
}

template <auto kBody, class... Args>
[[gnu::target("avx2,fma")]] auto body_for_avx2(Args... args) {
  return kBody(args...);
}
#undef NIBBLECAST_TARGET_AVX512
#endif

template <auto kBody, class... Args>
auto per_isa(Args... args) {
#if defined(NIBBLECAST_SIMD) && defined(__x86_64__)
  switch (cpu_isa()) {
    case CpuIsa::kAvx512:
      return body_for_avx512<kBody>(args...);
    case CpuIsa::kAvx2:
      return body_for_avx2<kBody>(args...);
    case CpuIsa::kScalar:
      break;
  }
#endif
  return kBody(args...);
}

}  // namespace nibblecast
