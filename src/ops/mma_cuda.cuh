// ops/mma_cuda.cuh - what kernels on tensor cores are made of: instructions that all architectures from sm_80
// on have in common, so that there is one text for all of them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "formats/bf16.h"

namespace nibblecast {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes from device memory to shared memory, in the background; zeros where !present (`from` is not read
// then, but must be an address of the array). Both are aligned to 16 bytes.
__device__ __forceinline__ void copy_16_async(void* to, const void* from, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(present ? 16 : 0)
               : "memory");
}

// The thread's own copies are done; other threads see them after a barrier.
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" : : : "memory"); }

// Four matrices of 8 x 8 numbers from shared memory: lanes 8i .. 8i + 7 give the addresses of matrix i's
// rows. Lane 4r + c gets elements 2c, 2c + 1 of row r of matrix i in m[i].
__device__ __forceinline__ void load_matrices(const bf16* row, uint32_t (&m)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(shared_address(row)));
}

// The same with each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(const bf16* row, uint32_t (&m)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(shared_address(row)));
}

// The left factor, 16 x 16 at `tile` in rows `stride` apart, as multiply_add takes it.
__device__ __forceinline__ void load_left(const bf16* tile, uint32_t stride, uint32_t lane,
                                          uint32_t (&a)[4]) {
  load_matrices(tile + lane % 16 * stride + lane / 16 * 8, a);
}

// sums [16, 8] += a [16, 16] · b [16, 8] in FP32. Lane 4r + c holds (r, 2c), (r, 2c + 1), (r + 8, 2c),
// (r + 8, 2c + 1) of the sums; b's halves are its rows 0 .. 7 and 8 .. 15, each as load_matrices gives the
// matrix [8 columns of b, 8 rows of b].
__device__ __forceinline__ void multiply_add(const uint32_t (&a)[4], uint32_t b_low, uint32_t b_high,
                                             float (&sums)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}

// Both rounded as from_float does, a in the lower half.
__device__ __forceinline__ uint32_t round_pair(float a, float b) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(b), "f"(a));
  return both;
}

// Two neighbours, rounded as from_float does: to[0] = a, to[1] = b. `to` is aligned to both.
__device__ __forceinline__ void store_pair(bf16* to, float a, float b) {
  *reinterpret_cast<uint32_t*>(to) = round_pair(a, b);
}
__device__ __forceinline__ void store_pair(float* to, float a, float b) {
  *reinterpret_cast<float2*>(to) = make_float2(a, b);
}

}  // namespace nibblecast
