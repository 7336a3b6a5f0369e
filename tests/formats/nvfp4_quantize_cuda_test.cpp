#include "formats/nvfp4_quantize_cuda.h"

#include <optional>
#include <span>
#include <vector>

#include "cuda_testing.h"
#include "formats/nvfp4_quantize_suite.h"

namespace nibblecast {
namespace {

using testing::EncodeBackend;
using testing::Encoded;
using testing::Nvfp4Quantize;
using testing::random_weight;
using testing::Weight;

template <class T>
void download(const DeviceArray<T>& from, T* to) {
  from_device(from, std::span<T>(to, from.size()));
}

template <class T>
void encode(WeightMethod method, float amax, const T* values, size_t rows, size_t cols, uint8_t* codes,
            uint8_t* block_scales, RowLoss* losses) {
  const size_t count = rows * cols;
  const auto device_amax = testing::uploaded(std::vector<float>{amax});
  const auto device_values = to_device(std::span<const T>(values, count));
  const auto device_codes = testing::poisoned<uint8_t>(count / 2);
  const auto device_scales = testing::poisoned<uint8_t>(count / 16);
  const auto device_losses = testing::poisoned<RowLoss>(losses == nullptr ? 0 : rows);
  CudaStream stream;
  encode_nvfp4_cuda(stream, method, device_amax.data(), device_values.data(), rows, cols, device_codes.data(),
                    device_scales.data(), losses == nullptr ? nullptr : device_losses.data());
  stream.synchronize();
  download(device_codes, codes);
  download(device_scales, block_scales);
  if (losses != nullptr) download(device_losses, losses);
}

INSTANTIATE_TEST_SUITE_P(Cuda, Nvfp4Quantize,
                         ::testing::Values(EncodeBackend{"cuda", [] { SKIP_WITHOUT_CUDA(); }, encode<bf16>,
                                                         encode<float>}),
                         [](const auto& backend) { return backend.param.name; });

// More blocks than threads of one launch, so that threads take several turns.
TEST(Nvfp4QuantizeCuda, ManyBlocksAsOnTheCpuAndTwiceTheSame) {
  SKIP_WITHOUT_CUDA();
  const Weight weight = random_weight(2050, 7168, 6, 3);
  for (const WeightMethod method : testing::kMethods) {
    Encoded expected(weight), found(weight), again(weight);
    Nvfp4Quantizer(method, weight.amax())
        .encode(weight.values.data(), weight.rows, weight.cols, expected.codes.data(), expected.scales.data(),
                expected.losses.data());
    for (Encoded* to : {&found, &again})
      encode(method, weight.amax(), weight.values.data(), weight.rows, weight.cols, to->codes.data(),
             to->scales.data(), to->losses.data());
    EXPECT_TRUE(expected == found) << testing::method_name(method);
    EXPECT_TRUE(found == again) << testing::method_name(method);
  }
}

struct DeviceScan {
  DeviceArray<float> amax = testing::uploaded(std::vector<float>{0});
  DeviceArray<uint64_t> non_finite = testing::uploaded(std::vector<uint64_t>{kAllFinite});

  template <class T>
  void add(const std::vector<T>& values, size_t first_index) const {
    const auto device_values = testing::uploaded(values);
    CudaStream stream;
    scan_amax_cuda(stream, device_values.data(), values.size(), first_index, amax.data(), non_finite.data());
    stream.synchronize();
  }
  AmaxScan result() const {
    const uint64_t index = testing::downloaded(non_finite)[0];
    return {testing::downloaded(amax)[0], index == kAllFinite ? std::nullopt : std::optional<size_t>(index)};
  }
};

template <class T>
void expect_scan(const std::vector<T>& values) {
  const AmaxScan expected = scan_amax(values.data(), values.size());
  DeviceScan whole, parts;
  whole.add(values, 0);
  for (size_t begin = 0, count; begin < values.size(); begin += count) {
    count = std::min<size_t>(values.size() - begin, 1 + begin / 2);
    parts.add(std::vector<T>(values.begin() + begin, values.begin() + begin + count), begin);
  }
  for (const AmaxScan& found : {whole.result(), parts.result()}) {
    EXPECT_EQ(found.amax, expected.amax) << values.size();
    EXPECT_EQ(found.non_finite, expected.non_finite) << values.size();
  }
}

TEST(ScanAmaxCuda, EveryLengthAsOnTheCpu) {
  SKIP_WITHOUT_CUDA();
  const Weight weight = random_weight(1, 5000, 8, 3);
  for (size_t count = 0; count < 5000; count += 1 + count / 9)
    expect_scan(std::vector<bf16>(weight.values.begin(), weight.values.begin() + count));
  const std::vector<float> wide = random_weight<float>(1, 5000, 8, 3).values;
  for (size_t count = 0; count < 5000; count += 1 + count / 9)
    expect_scan(std::vector<float>(wide.begin(), wide.begin() + count));
}

TEST(ScanAmaxCuda, FindsTheFirstOfManyNonFiniteValues) {
  SKIP_WITHOUT_CUDA();
  for (const size_t first : {0u, 1u, 7u, 8u, 1023u, 2999u, 3000u}) {
    Weight weight = random_weight(1, 3001, 9, 3);
    for (size_t i = first; i < weight.values.size(); i += 1 + i / 7)
      weight.values[i].bits = i % 2 ? 0xff80 : 0x7fc1;
    expect_scan(weight.values);
    std::vector<float> wide;
    for (const bf16 value : weight.values) wide.push_back(to_float(value));
    expect_scan(wide);
  }
  expect_scan(std::vector<bf16>(100, bf16{0xffff}));
}

TEST(ScanAmaxCuda, ScansMoreThanOneTurnOfTheGrid) {
  SKIP_WITHOUT_CUDA();
  std::vector<bf16> values(9'000'003, bf16{0x3c00});
  values[8'999'999].bits = 0xc123;
  values[6'000'001].bits = 0x7f80;
  expect_scan(values);
}

}  // namespace
}  // namespace nibblecast
