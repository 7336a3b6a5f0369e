// One BF16 weight from standard input to NVFP4 on standard output, for tools/check_weight_methods.py:
//
//   encode_weight max|mse|four_over_six ROWS COLS GROUP_AMAX auto|scalar|avx2|avx512 [REPEATS]
//
// GROUP_AMAX 0: the weight's own. Writes scale_2 (F32), block scales, codes; the seconds of the fastest of
// REPEATS encodings (amax, table and encoding, on one thread) go to standard error.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "base/cpu_isa.h"
#include "base/error.h"
#include "formats/nvfp4_quantize.h"

namespace nibblecast {
namespace {

WeightMethod method_of(const std::string& name) {
  if (name == "max") return WeightMethod::kMax;
  if (name == "mse") return WeightMethod::kMse;
  if (name == "four_over_six") return WeightMethod::kFourOverSix;
  throw Error(ErrorKind::kUsage, {}, "unknown method '" + name + "'");
}

int run(const std::vector<std::string>& args) {
  if (args.size() < 5) throw Error(ErrorKind::kUsage, {}, "see the first lines of encode_weight.cpp");
  const size_t rows = std::stoul(args[1]), cols = std::stoul(args[2]);
  set_cpu_isa(args[4]);
  std::vector<bf16> values(rows * cols);
  if (std::fread(values.data(), sizeof(bf16), values.size(), stdin) != values.size())
    throw Error(ErrorKind::kBadInput, {}, "standard input is too short");
  const float group = std::stof(args[3]);
  std::vector<uint8_t> codes(values.size() / 2), scales(values.size() / 16);
  double least = 1e9;
  float scale_2 = 0;
  for (int left = args.size() > 5 ? std::stoi(args[5]) : 1; left > 0; --left) {
    const auto start = std::chrono::steady_clock::now();
    const Nvfp4Quantizer quantizer(method_of(args[0]),
                                   group > 0 ? group : scan_amax(values.data(), values.size()).amax);
    quantizer.encode(values.data(), rows, cols, codes.data(), scales.data());
    least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    scale_2 = quantizer.scale_2();
  }
  std::fprintf(stderr, "%.9f\n", least);
  std::fwrite(&scale_2, sizeof scale_2, 1, stdout);
  std::fwrite(scales.data(), 1, scales.size(), stdout);
  std::fwrite(codes.data(), 1, codes.size(), stdout);
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace nibblecast

int main(int argc, char** argv) try {
  return nibblecast::run({argv + 1, argv + argc});
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return EXIT_FAILURE;
}
