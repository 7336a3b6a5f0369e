#include "cli/version.h"

#include <fmt/format.h>

#include "base/build_info.h"
#include "cli/summary.h"
#include "ops/product_isa.h"

namespace nibblecast {

std::string version_text() {
  const BuildInfo build = build_info();
  const std::string commit = build.commit, cuda = build.cuda;
  return fmt::format("nibblecast {}\n", build.version) +
         summary_line("commit", commit.empty() ? "unknown: not built from a git repository" : commit) +
         summary_line("CUDA", cuda.empty() ? "no" : cuda) +
         summary_line("Parquet", build.parquet ? "yes" : "no") +
         summary_line("kernels", build.simd ? "scalar, avx2, avx512" : "scalar") +
         summary_line("this CPU", product_isa());
}

}  // namespace nibblecast
