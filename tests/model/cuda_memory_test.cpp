// What a device's memory is planned to hold; needs no device.
#include <gtest/gtest.h>

#include "formats/bf16.h"
#include "model/families/deepseek_v4/checks.h"
#include "model/families/deepseek_v4/cuda_memory.h"
#include "model/family.h"
#include "testing.h"

namespace nibblecast {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

DeepseekV4Config config(const char* name) { return DeepseekV4Config::parse(preset_config(name), name); }

TEST(Arena, CountsWhatItHandsOut) {
  Arena counting;
  EXPECT_EQ(counting.take<float>(3), nullptr);
  EXPECT_EQ(counting.size_bytes(), Arena::kAlignment);
  const uint64_t mark = counting.mark();
  counting.take<uint64_t>(100);
  counting.rewind(mark);
  counting.take<char>(1);
  EXPECT_EQ(counting.size_bytes(), mark + 1024);  // 800 bytes in whole steps, the larger of the two sets
  alignas(Arena::kAlignment) std::byte block[1024];
  Arena arena(block);
  EXPECT_EQ(static_cast<void*>(arena.take<float>(3)), block);
  EXPECT_EQ(static_cast<void*>(arena.take<float>(3)), block + Arena::kAlignment);
}

TEST(CudaConfig, RefusesWhatNoKernelTakes) {
  DeepseekV4Config pro = config("v4-pro");
  check_cuda_config(pro);
  pro.index_head_dim = 256;
  testing::expect_error(
      ErrorKind::kUnsupported, [&] { check_cuda_config(pro); }, "index_head_dim", "--device cpu");
  pro = config("v4-pro");
  pro.n_routed_experts = 1025;
  testing::expect_error(
      ErrorKind::kUnsupported, [&] { check_cuda_config(pro); }, "n_routed_experts");
}

TEST(CudaMemory, CardsOf24GigabytesTakeV4Pro) {
  const CudaWorkload usual{.rows = 128, .tokens = 128 * 512, .longest_row = 512};
  const CudaMemory memory = cuda_memory<bf16>(config("v4-pro"), usual, 0, 22 * kGiB);
  EXPECT_LE(memory.peak_bytes(), 22 * kGiB);
  EXPECT_TRUE(memory.streams_resident);
  EXPECT_EQ(memory.streams_bytes, usual.tokens * 57344);
  EXPECT_GE(memory.slot_bytes, 35'094'528u);  // an expert as the release stores it
}

TEST(CudaMemory, StreamsLeaveTheCardFirst) {
  const CudaWorkload many{.rows = 1024, .tokens = 1024 * 512, .longest_row = 512};
  const DeepseekV4Config pro = config("v4-pro");
  const CudaMemory roomy = cuda_memory<bf16>(pro, many, 0, 140 * kGiB);
  EXPECT_TRUE(roomy.streams_resident);
  const CudaMemory small = cuda_memory<bf16>(pro, many, 0, 40 * kGiB);
  EXPECT_FALSE(small.streams_resident);
  EXPECT_LE(small.peak_bytes(), 40 * kGiB);
  EXPECT_LT(small.slots, roomy.slots + 1);
  // What does not fit is seen from the peak, and least_bytes is what would.
  const CudaMemory none = cuda_memory<bf16>(pro, many, 0, small.least_bytes - 1);
  EXPECT_GT(none.peak_bytes(), small.least_bytes - 1);
  EXPECT_LE(cuda_memory<bf16>(pro, many, 0, small.least_bytes).peak_bytes(), small.least_bytes);
}

TEST(CudaMemory, IsNothingOfTheLimitsBusinessHowRowsAreDivided) {
  // Buffers of a group do not shrink with the limit: results would depend on it.
  const CudaWorkload long_row{.rows = 1, .tokens = 16384, .longest_row = 16384};
  const DeepseekV4Config flash = config("v4-flash");
  const CudaMemory a = cuda_memory<float>(flash, long_row, 0, 80 * kGiB),
                   b = cuda_memory<float>(flash, long_row, 0, 160 * kGiB);
  EXPECT_EQ(a.fixed_bytes, b.fixed_bytes);
}

}  // namespace
}  // namespace nibblecast
