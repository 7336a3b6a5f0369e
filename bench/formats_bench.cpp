// Number formats on one core: GB/s of source bytes (codes and scales) per kernel and instruction set, for a
// matrix larger than the caches. Each kernel's bytes are compared with the reference's before it is timed.
//
//   cmake --preset release -DBENCH=ON && cmake --build --preset release --target formats_bench
//   build/release/bench/formats_bench
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "base/cpu_isa.h"
#include "formats/fp8_block.h"
#include "formats/fp8_quantize.h"
#include "formats/fp8_to_mxfp4.h"
#include "formats/kernels.h"
#include "formats/mxfp4.h"
#include "formats/mxfp4_to_nvfp4.h"
#include "formats/nonfinite.h"
#include "formats/nvfp4_quantize.h"
#include "formats/nvfp4_scales.h"
#include "formats/stored_linear.h"

namespace nibblecast {
namespace {

constexpr size_t kRows = 12288, kCols = 7168;  // four expert matrices of DeepSeek-V4-Pro: 44 MB of nibbles
constexpr size_t kCheckedRows = 256;
constexpr size_t kMethodRows = 3072;  // one of the four

struct Source {
  std::vector<uint8_t> codes = std::vector<uint8_t>(kRows * kCols);
  std::vector<uint8_t> scales = std::vector<uint8_t>(kRows * kCols / 32);

  Source() {
    std::minstd_rand random(1);
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random() >> 8);
    for (uint8_t& scale : scales)
      scale = static_cast<uint8_t>(110 + (random() >> 8) % 12);  // all in the window
  }
  Mxfp4View mxfp4() const { return {codes.data(), scales.data(), kRows, kCols}; }
  Fp8BlockView fp8() const {
    return {.codes = codes.data(), .scales = scales.data(), .rows = kRows, .cols = kCols};
  }
};

const Source& source() {
  static const Source made;
  return made;
}

template <class T>
void check_same(benchmark::State& state, const std::vector<T>& found, const std::vector<T>& expected,
                size_t count) {
  if (std::memcmp(found.data(), expected.data(), count * sizeof(T)) != 0) {
    state.SkipWithError("differs from the reference");
  }
}

void set_bytes(benchmark::State& state, size_t source_bytes) {
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * source_bytes));
}

template <class T>
void mxfp4(benchmark::State& state, std::string isa) {
  set_cpu_isa(isa);
  std::vector<T> out(kRows * kCols), expected(kCheckedRows * kCols);
  dequantize_mxfp4_ref(source().mxfp4(), 0, kCheckedRows, expected.data(), kCols);
  dequantize_mxfp4(source().mxfp4(), 0, kCheckedRows, out.data(), kCols);
  check_same(state, out, expected, expected.size());
  for (auto _ : state) {
    dequantize_mxfp4(source().mxfp4(), 0, kRows, out.data(), kCols);
    benchmark::ClobberMemory();
  }
  set_bytes(state, kRows * kCols / 2 + kRows * kCols / 32);
}

template <class T>
void fp8_block(benchmark::State& state, std::string isa) {
  set_cpu_isa(isa);
  std::vector<T> out(kRows * kCols), expected(kCheckedRows * kCols);
  dequantize_fp8_block_ref(source().fp8(), 0, kCheckedRows, expected.data(), kCols);
  dequantize_fp8_block(source().fp8(), 0, kCheckedRows, out.data(), kCols);
  check_same(state, out, expected, expected.size());
  for (auto _ : state) {
    dequantize_fp8_block(source().fp8(), 0, kRows, out.data(), kCols);
    benchmark::ClobberMemory();
  }
  set_bytes(state, kRows * kCols);
}

// NVFP4 whose scale_2 is no power of two, so that BF16 rounds and counts.
void nvfp4(benchmark::State& state, std::string isa) {
  set_cpu_isa(isa);
  std::vector<uint8_t> block_scales(kRows * kCols / 16);
  for (size_t i = 0; i < block_scales.size(); ++i) block_scales[i] = source().scales[i / 2];
  const Nvfp4View weight = {source().codes.data(), block_scales.data(), 0.0371f, kRows, kCols};
  std::vector<bf16> out(kRows * kCols), expected(kCheckedRows * kCols);
  dequantize_rows_ref(weight, 0, kCheckedRows, expected.data(), kCols);
  dequantize_rows(weight, 0, kCheckedRows, out.data(), kCols);
  check_same(state, out, expected, expected.size());
  for (auto _ : state) {
    dequantize_rows(weight, 0, kRows, out.data(), kCols);
    benchmark::ClobberMemory();
  }
  set_bytes(state, kRows * kCols / 2 + kRows * kCols / 16);
}

// Normally distributed weights, as those of a trained layer nearly are.
const std::vector<bf16>& weights() {
  static const std::vector<bf16> made = [] {
    std::vector<bf16> values(kMethodRows * kCols);
    std::minstd_rand random(2);
    std::normal_distribution<float> normal(0, 0.02f);
    for (bf16& value : values) value = to_bf16(normal(random));
    return values;
  }();
  return made;
}

// Four octaves, as the mean squares of activations have.
const std::vector<float>& channel_weights() {
  static const std::vector<float> made = [] {
    std::vector<float> values(kCols);
    std::minstd_rand random(4);
    std::uniform_real_distribution<float> exponent(-2, 2);
    for (float& value : values) value = std::exp2(exponent(random));
    return values;
  }();
  return made;
}

#if NIBBLECAST_X86_KERNELS
// The sweep alone, over FP32 values: all 126 candidates, or those that can win. Picks must be equal.
void sweep(benchmark::State& state, bool weighted, bool prune, std::string isa) {
  const Nvfp4Kernels& kernels = isa == "avx512" ? kNvfp4Avx512 : kNvfp4Avx2;
  constexpr size_t kBlocks = 512 * kCols / 16;
  std::vector<float> values(16 * kBlocks), channels(16 * kBlocks);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = to_float(weights()[i]), channels[i] = channel_weights()[i % kCols];
  const float amax = scan_amax(values.data(), values.size()).amax;
  SweepScales scales = sweep_scales({WeightMethod::kMse, amax, nvfp4_scale_2(WeightMethod::kMse, amax)});
  std::vector<uint8_t> picks(kBlocks), expected(kBlocks);
  const auto run = [&](std::vector<uint8_t>& to) {
    kernels.sweep_wide(values.data(), kBlocks, scales, weighted ? channels.data() : nullptr, to.data());
  };
  run(picks);
  scales.doubles = false;  // without it nothing is left out
  run(expected);
  check_same(state, picks, expected, kBlocks);
  scales.doubles = prune;
  for (auto _ : state) {
    run(picks);
    benchmark::ClobberMemory();
  }
  set_bytes(state, values.size() * sizeof(float));
}

#endif

// Everything of one weight on one thread: amax, table, encoding; BF16 bytes read.
void quantize(benchmark::State& state, WeightMethod method, bool losses, std::string isa) {
  set_cpu_isa(isa);
  const std::vector<bf16>& values = weights();
  std::vector<uint8_t> codes(values.size() / 2), scales(values.size() / 16), expected(8 * kCols / 2),
      expected_scales(8 * kCols / 16);
  std::vector<RowLoss> sums(kMethodRows);
  const auto run = [&](size_t rows) {
    Nvfp4Quantizer quantizer(method, scan_amax(values.data(), values.size()).amax);
    quantizer.encode(values.data(), rows, kCols, codes.data(), scales.data(), losses ? sums.data() : nullptr,
                     channel_weights().data());
    return quantizer;
  };
  run(8).encode_ref(values.data(), 8, kCols, expected.data(), expected_scales.data(), nullptr,
                    channel_weights().data());
  check_same(state, codes, expected, expected.size());
  check_same(state, scales, expected_scales, expected_scales.size());
  const size_t rows = isa == "scalar" ? kMethodRows / 64 : kMethodRows;
  for (auto _ : state) {
    run(rows);
    benchmark::ClobberMemory();
  }
  set_bytes(state, rows * kCols * sizeof(bf16));
}

void fp8_tiles(benchmark::State& state, std::string isa) {
  set_cpu_isa(isa);
  const Fp8Tiles tiles = {.rows = kMethodRows, .cols = kCols};
  std::vector<uint8_t> codes(kMethodRows * kCols), expected(codes.size());
  std::vector<float> scales(kMethodRows * kCols / 128 / 128);
  quantize_fp8_tiles_ref(weights().data(), tiles, expected.data(), scales.data());
  quantize_fp8_tiles(weights().data(), tiles, codes.data(), scales.data());
  check_same(state, codes, expected, expected.size());
  for (auto _ : state) {
    quantize_fp8_tiles(weights().data(), tiles, codes.data(), scales.data());
    benchmark::ClobberMemory();
  }
  set_bytes(state, codes.size() * sizeof(bf16));
}

void amax(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(scan_amax(weights().data(), weights().size()));
  set_bytes(state, weights().size() * sizeof(bf16));
}

void cast(benchmark::State& state, NegativeZero negative_zero, bool in_place) {
  const int k_max = scan_scales(source().scales.data(), source().scales.size()).k_max();
  const Mxfp4View from = source().mxfp4();
  std::vector<uint8_t> codes(kRows * kCols / 2), scales(kRows * kCols / 16), expected(codes.size()),
      expected_scales(scales.size());
  cast_mxfp4_to_nvfp4_ref(from, 0, kCheckedRows, k_max, negative_zero, expected.data(),
                          expected_scales.data());
  cast_mxfp4_to_nvfp4(from, 0, kCheckedRows, k_max, negative_zero, codes.data(), scales.data());
  check_same(state, codes, expected, kCheckedRows * kCols / 2);
  check_same(state, scales, expected_scales, kCheckedRows * kCols / 16);
  std::memcpy(codes.data(), from.codes, codes.size());
  const Mxfp4View timed = {in_place ? codes.data() : from.codes, from.scales, kRows, kCols};
  for (auto _ : state) {
    cast_mxfp4_to_nvfp4(timed, 0, kRows, k_max, negative_zero, codes.data(), scales.data());
    benchmark::ClobberMemory();
  }
  set_bytes(state, codes.size() + source().scales.size());
}

// FP8 with random E2M1 numbers, all of which fit.
void fp8_to_mxfp4(benchmark::State& state) {
  static constexpr uint8_t kNumbers[] = {0x00, 0x30, 0x38, 0x3c, 0x40, 0x44, 0x48, 0x4c};
  std::vector<uint8_t> from(kMethodRows * kCols);
  std::minstd_rand random(3);
  for (uint8_t& code : from) code = kNumbers[(random() >> 8) & 7];
  const Fp8BlockView source_view = {
      .codes = from.data(), .scales = source().scales.data(), .rows = kMethodRows, .cols = kCols};
  std::vector<uint8_t> codes(from.size() / 2), scales(from.size() / 32), expected = codes;
  cast_fp8_to_mxfp4_ref(source_view, 0, kCheckedRows, expected.data(), scales.data());
  if (cast_fp8_to_mxfp4(source_view, 0, kMethodRows, codes.data(), scales.data()))
    state.SkipWithError("a block does not fit");
  check_same(state, codes, expected, kCheckedRows * kCols / 2);
  for (auto _ : state) {
    cast_fp8_to_mxfp4(source_view, 0, kMethodRows, codes.data(), scales.data());
    benchmark::ClobberMemory();
  }
  set_bytes(state, from.size());
}

// A chunk of kept bytes, finite in every dtype.
const std::vector<uint8_t>& finite() {
  static const std::vector<uint8_t> bytes = [] {
    std::vector<uint8_t> made(16 << 20);
    std::minstd_rand random(2);
    for (uint8_t& byte : made) byte = (random() >> 8) & 0x3f;
    return made;
  }();
  return bytes;
}

void scan(benchmark::State& state) {
  const std::vector<uint8_t>& scales = source().scales;
  for (auto _ : state) benchmark::DoNotOptimize(scan_scales(scales.data(), scales.size()));
  set_bytes(state, scales.size());
}

void nonfinite(benchmark::State& state, Dtype dtype) {
  const auto bytes = std::as_bytes(std::span(finite()));
  if (count_nonfinite(dtype, bytes) != count_nonfinite_ref(dtype, bytes)) state.SkipWithError("differs");
  for (auto _ : state) benchmark::DoNotOptimize(count_nonfinite(dtype, bytes));
  set_bytes(state, bytes.size());
}

// The bound of the cast: the same nibbles, only copied.
void copy(benchmark::State& state) {
  std::vector<uint8_t> to(kRows * kCols / 2);
  for (auto _ : state) {
    std::memcpy(to.data(), source().codes.data(), to.size());
    benchmark::ClobberMemory();
  }
  set_bytes(state, to.size());
}

void register_all() {
  for (const CpuIsa isa : {CpuIsa::kScalar, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (isa > detect_cpu_isa()) break;
    const std::string name(cpu_isa_name(isa));
    benchmark::RegisterBenchmark(("mxfp4/bf16/" + name).c_str(), mxfp4<bf16>, name);
    benchmark::RegisterBenchmark(("mxfp4/float/" + name).c_str(), mxfp4<float>, name);
    benchmark::RegisterBenchmark(("fp8_block/bf16/" + name).c_str(), fp8_block<bf16>, name);
    benchmark::RegisterBenchmark(("fp8_block/float/" + name).c_str(), fp8_block<float>, name);
    benchmark::RegisterBenchmark(("nvfp4/bf16/" + name).c_str(), nvfp4, name);
    benchmark::RegisterBenchmark(("quantize/max/" + name).c_str(), quantize, WeightMethod::kMax, false, name);
    benchmark::RegisterBenchmark(("quantize/max/losses/" + name).c_str(), quantize, WeightMethod::kMax, true,
                                 name);
    benchmark::RegisterBenchmark(("quantize/four_over_six/" + name).c_str(), quantize,
                                 WeightMethod::kFourOverSix, false, name);
    benchmark::RegisterBenchmark(("quantize/mse/" + name).c_str(), quantize, WeightMethod::kMse, false, name);
    benchmark::RegisterBenchmark(("quantize/wmse/" + name).c_str(), quantize, WeightMethod::kWmse, false,
                                 name);
#if NIBBLECAST_X86_KERNELS
    for (const bool weighted : {false, true}) {
      if (isa == CpuIsa::kScalar) break;
      for (const bool prune : {false, true}) {
        const std::string what =
            std::string(weighted ? "weighted/" : "plain/") + (prune ? "pruned/" : "all/");
        benchmark::RegisterBenchmark(("sweep/" + what + name).c_str(), sweep, weighted, prune, name);
      }
    }
#endif
    benchmark::RegisterBenchmark(("fp8_quantize/" + name).c_str(), fp8_tiles, name);
  }
  benchmark::RegisterBenchmark("cast/keep", cast, NegativeZero::kKeep, false);
  benchmark::RegisterBenchmark("cast/keep/in_place", cast, NegativeZero::kKeep, true);
  benchmark::RegisterBenchmark("cast/modelopt", cast, NegativeZero::kModelOpt, false);
  benchmark::RegisterBenchmark("cast/modelopt/in_place", cast, NegativeZero::kModelOpt, true);
  benchmark::RegisterBenchmark("fp8_to_mxfp4", fp8_to_mxfp4);
  benchmark::RegisterBenchmark("scan_scales", scan);
  benchmark::RegisterBenchmark("scan_amax", amax);
  for (const Dtype dtype : {Dtype::kF8E4M3, Dtype::kF8E8M0, Dtype::kBF16, Dtype::kF32}) {
    const std::string name(dtype_name(dtype));
    benchmark::RegisterBenchmark(("count_nonfinite/" + name).c_str(), nonfinite, dtype);
  }
  benchmark::RegisterBenchmark("memcpy", copy);
}

}  // namespace
}  // namespace nibblecast

int main(int argc, char** argv) {
  nibblecast::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return EXIT_FAILURE;
  benchmark::RunSpecifiedBenchmarks();
  return EXIT_SUCCESS;
}
