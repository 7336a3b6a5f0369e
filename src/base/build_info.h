// base/build_info.h - which build of nibblecast this is.
#pragma once

#include <string>

namespace nibblecast {

struct BuildInfo {
  const char* version;  // "0.1.0"
  const char* commit;   // "271f6bc"; "271f6bc.1a2b3c4d" with changes that are not committed; "" outside git
  const char* cuda;     // the toolkit's version; "" without
  bool parquet;
  bool simd;  // kernels for AVX2 and AVX-512
};
BuildInfo build_info();

// "0.1.0+271f6bc": two builds that may give other bytes have other names.
std::string build_version();

}  // namespace nibblecast
