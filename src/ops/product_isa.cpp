#include "ops/product_isa.h"

#include <oneapi/dnnl/dnnl.h>

#include "base/cpu_isa.h"
#include "ops/matmul.h"

namespace nibblecast {

std::string onednn_version() {
  const dnnl_version_t* version = dnnl_version();
  return std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
         std::to_string(version->patch);
}

std::string product_isa() {
  std::string name(cpu_isa_name(cpu_isa()));
  if (has_bf16_products()) name += " bf16";
  if (has_amx_products()) name += " amx";
  return name + ", oneDNN " + onednn_version();
}

}  // namespace nibblecast
