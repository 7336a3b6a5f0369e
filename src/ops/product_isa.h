// ops/product_isa.h - which instructions products run on. Their sums are rounded in another order on others,
// so a calibration that began on one of them goes on only there.
#pragma once

#include <string>

namespace nibblecast {

// "avx512 bf16 amx", "avx512", "avx2", "scalar": cpu_isa(), and what the CPU has beyond it that oneDNN uses.
std::string product_isa();

}  // namespace nibblecast
