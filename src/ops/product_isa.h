// ops/product_isa.h - which instructions products run on. Their sums are rounded in another order on others,
// so a calibration that began on one of them goes on only there.
#pragma once

#include <string>

namespace nibblecast {

// "avx512 bf16 amx, oneDNN 2.6.2", "scalar, oneDNN 2.6.2": cpu_isa(), what the CPU has beyond it that oneDNN
// uses, and the library that is loaded.
std::string product_isa();
std::string onednn_version();  // "2.6.2"

}  // namespace nibblecast
