#include "ops/product_isa.h"

#include <oneapi/dnnl/dnnl.h>

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

std::string onednn_version() {
  const dnnl_version_t* version = dnnl_version();
  return std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
         std::to_string(version->patch);
}

std::string product_isa() {
  std::string name(cpu_isa_name(cpu_isa()));
  const bool wide = cpu_isa() == CpuIsa::kAvx512;
  if (wide && has_bf16_products()) name += " bf16";
  if (wide && has_amx()) name += " amx";
  return name + ", oneDNN " + onednn_version();
}

}  // namespace nibblecast
