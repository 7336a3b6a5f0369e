#include "base/cpu_isa.h"

#include <atomic>
#include <string>

#include "base/error.h"

namespace nibblecast {
namespace {

std::atomic<int> chosen{-1};  // -1: not yet; else a CpuIsa

}  // namespace

CpuIsa detect_cpu_isa() {
#if defined(NIBBLECAST_SIMD) && defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return CpuIsa::kAvx512;
  }
  // Every CPU with AVX2 and FMA has F16C, which Clang 14 cannot ask for.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return CpuIsa::kAvx2;
#endif
  return CpuIsa::kScalar;
}

CpuIsa cpu_isa() {
  int isa = chosen.load(std::memory_order_relaxed);
  if (isa < 0) {
    isa = static_cast<int>(detect_cpu_isa());
    chosen.store(isa, std::memory_order_relaxed);
  }
  return static_cast<CpuIsa>(isa);
}

void set_cpu_isa(std::string_view name) {
  CpuIsa isa = detect_cpu_isa();
  if (name == "scalar")
    isa = CpuIsa::kScalar;
  else if (name == "avx2")
    isa = CpuIsa::kAvx2;
  else if (name == "avx512")
    isa = CpuIsa::kAvx512;
  else if (name != "auto") {
    throw Error(ErrorKind::kUsage, {}, "unknown instruction set '" + std::string(name) + "'",
                {.expected = "auto, scalar, avx2 or avx512"});
  }
  if (isa > detect_cpu_isa()) {
    throw Error(ErrorKind::kUnsupported, {}, "this CPU or build lacks " + std::string(name),
                {.hint = "the best here is " + std::string(cpu_isa_name(detect_cpu_isa()))});
  }
  chosen.store(static_cast<int>(isa), std::memory_order_relaxed);
}

std::string_view cpu_isa_name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kScalar:
      return "scalar";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512";
  }
  return "?";
}

}  // namespace nibblecast
