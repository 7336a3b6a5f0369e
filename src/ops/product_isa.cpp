#include "ops/product_isa.h"

#include "base/cpu_isa.h"
#include "ops/matmul.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif

namespace nibblecast {
namespace {

bool has_amx() {
#ifdef __x86_64__
  constexpr unsigned kAmxBf16 = 1u << 22;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kAmxBf16) != 0;
#else
  return false;
#endif
}

}  // namespace

std::string product_isa() {
  std::string name(cpu_isa_name(cpu_isa()));
  if (cpu_isa() != CpuIsa::kAvx512) return name;
  if (has_bf16_products()) name += " bf16";
  if (has_amx()) name += " amx";
  return name;
}

}  // namespace nibblecast
