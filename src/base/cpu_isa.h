// base/cpu_isa.h - which instruction set the CPU kernels use; chosen once, at start.
#pragma once

#include <string_view>

namespace nibblecast {

// Ordered: a later one includes the earlier ones. Every kernel exists for kScalar; a kernel that lacks
// a version for the chosen one uses the next below.
enum class CpuIsa { kScalar, kAvx2, kAvx512 };

// The best that this CPU has. kAvx2 means AVX2 + FMA + F16C; kAvx512 means F, BW, VL and DQ.
CpuIsa detect_cpu_isa();

// The one in use: the best, unless set_cpu_isa named another. Safe from any thread.
CpuIsa cpu_isa();

// "auto", "scalar", "avx2" or "avx512". Call before any kernel runs.
// Errors: kUsage for another name, kUnsupported if this CPU or build lacks it.
void set_cpu_isa(std::string_view name);

std::string_view cpu_isa_name(CpuIsa isa);

}  // namespace nibblecast
