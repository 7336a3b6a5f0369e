#include "formats/stored_linear_cuda.h"

#include <cstdint>
#include <vector>

#include "cuda_testing.h"
#include "formats/stored_linear_suite.h"

namespace nibblecast {
namespace {

using testing::DequantizeBackend;
using testing::random_bytes;
using testing::StoredLinearTest;

// A copy in device memory that is aligned as the original is.
class DeviceCopy {
 public:
  DeviceCopy(const void* from, size_t size_bytes) : begin_(reinterpret_cast<uintptr_t>(from) % 256) {
    std::vector<uint8_t> bytes(begin_ + size_bytes);
    if (size_bytes > 0) std::memcpy(bytes.data() + begin_, from, size_bytes);
    array_ = testing::uploaded(bytes);
  }
  const uint8_t* data() const { return array_.data() + begin_; }

 private:
  size_t begin_;
  DeviceArray<uint8_t> array_;
};

using DeviceCopies = std::vector<DeviceCopy>;

const uint8_t* copied(DeviceCopies& copies, const void* from, size_t size_bytes) {
  return copies.emplace_back(from, size_bytes).data();
}

StoredLinear on_device(Bf16View view, DeviceCopies& copies) {
  view.values = copied(copies, view.values, view.rows * view.cols * sizeof(bf16));
  return view;
}
StoredLinear on_device(F16View view, DeviceCopies& copies) {
  view.values = copied(copies, view.values, view.rows * view.cols * sizeof(f16));
  return view;
}

StoredLinear on_device(F32View view, DeviceCopies& copies) {
  view.values = copied(copies, view.values, view.rows * view.cols * sizeof(float));
  return view;
}
StoredLinear on_device(Fp8BlockView view, DeviceCopies& copies) {
  const size_t tiles =
      (view.rows + view.tile_rows - 1) / view.tile_rows * ((view.cols + view.tile_cols - 1) / view.tile_cols);
  view.codes = copied(copies, view.codes, view.rows * view.cols);
  view.scales = copied(copies, view.scales, tiles * (view.scale_type == ScaleType::kF32 ? sizeof(float) : 1));
  return view;
}
StoredLinear on_device(Mxfp4View view, DeviceCopies& copies) {
  view.codes = copied(copies, view.codes, view.rows * view.cols / 2);
  view.scales = copied(copies, view.scales, view.rows * view.cols / 32);
  return view;
}
StoredLinear on_device(Int4View view, DeviceCopies& copies) {
  const size_t groups = view.group == 0 ? 0 : view.rows * (view.cols / view.group);
  view.codes = copied(copies, view.codes, view.rows * view.cols / 2);
  view.scales = copied(copies, view.scales, groups * scale_bytes(view.scale_type));
  return view;
}
StoredLinear on_device(Nvfp4View view, DeviceCopies& copies) {
  view.codes = copied(copies, view.codes, view.rows * view.cols / 2);
  view.block_scales = copied(copies, view.block_scales, view.rows * view.cols / 16);
  return view;
}

template <class T>
std::optional<DequantizeReport> dequantize(const StoredLinear& weight, size_t row, size_t count,
                                           std::vector<T>& buffer, size_t out, size_t out_stride) {
  DeviceCopies copies;
  const StoredLinear view = std::visit([&](const auto& host) { return on_device(host, copies); }, weight);
  const DeviceArray<T> made = testing::uploaded(buffer);
  CudaStream stream;
  dequantize_rows_cuda(stream, view, row, count, made.data() + out, out_stride);
  stream.synchronize();
  buffer = testing::downloaded(made);
  return {};
}

INSTANTIATE_TEST_SUITE_P(Cuda, StoredLinearTest,
                         ::testing::Values(DequantizeBackend{"cuda", [] { SKIP_WITHOUT_CUDA(); },
                                                             dequantize<float>, dequantize<bf16>}),
                         [](const auto& backend) { return backend.param.name; });

TEST(StoredLinearCuda, RowsOfAnExpertAsOnTheCpuAndTwiceTheSame) {
  SKIP_WITHOUT_CUDA();
  constexpr size_t kRows = 3072, kCols = 7168;
  const std::vector<uint8_t> codes = random_bytes(kRows * kCols / 2, 5);
  const std::vector<uint8_t> scales = random_bytes(kRows * kCols / 32, 6);
  const Mxfp4View weight = {codes.data(), scales.data(), kRows, kCols};
  std::vector<bf16> expected(kRows * kCols), found(kRows * kCols), again(kRows * kCols);
  dequantize_rows(weight, 0, kRows, expected.data(), kCols);
  dequantize(weight, 0, kRows, found, 0, kCols);
  dequantize(weight, 0, kRows, again, 0, kCols);
  EXPECT_EQ(testing::first_difference(expected.data(), found.data(), found.size()), found.size());
  EXPECT_EQ(testing::first_difference(found.data(), again.data(), found.size()), found.size());
}

}  // namespace
}  // namespace nibblecast
