// Sources in F16 and in F32 are read as what they hold: the same values in both give the same codes, scales
// and figures, also where embedding and head are no BF16.
#include <gtest/gtest.h>

#include <bit>
#include <optional>

#include "formats/f16.h"
#include "pipeline/plain_rows.h"
#include "pipeline/verify.h"
#include "stored_checkpoint.h"

namespace nibblecast {
namespace {

using testing::bytes_of;
using testing::StoredTensor;
using testing::tensor_bytes;

// Of a BF16 number that F16 has; of smaller ones 0.
f16 half_of(bf16 value) {
  const uint32_t bits = uint32_t{value.bits} << 16, exponent = bits >> 23 & 255;
  if (exponent < 113 || exponent > 142) return {};
  return {static_cast<uint16_t>((bits >> 16 & 0x8000) | (exponent - 112) << 10 | (bits >> 13 & 1023))};
}

std::vector<bf16> narrow_values(const std::string& bytes) {
  std::vector<bf16> values(bytes.size() / sizeof(bf16));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

// All in F16, or what that holds in F32.
std::vector<StoredTensor> as_plain(const Checkpoint& source, Dtype dtype) {
  std::vector<StoredTensor> stored;
  for (const Tensor& tensor : source.tensors()) {
    std::vector<f16> halves;
    std::vector<float> wide;
    for (const bf16 value : narrow_values(tensor_bytes(source, tensor.name))) {
      halves.push_back(half_of(value));
      wide.push_back(to_float(halves.back()));
    }
    stored.push_back(
        {tensor.name, dtype, tensor.shape, dtype == Dtype::kF16 ? bytes_of(halves) : bytes_of(wide)});
  }
  return stored;
}

class PlainSource : public ::testing::Test {
 protected:
  void make(const char* preset) {
    synthesize(preset_config(preset), preset, {}, path("bf16"), system_files());
    const Checkpoint source = Checkpoint::open(path("bf16"), system_files());
    testing::write_checkpoint(path("f16"), as_plain(source, Dtype::kF16), source.config());
    testing::write_checkpoint(path("f32"), as_plain(source, Dtype::kF32), source.config());
  }

  RunRecord quantize(const std::string& name, ComputeDtype compute) {
    const Checkpoint source = Checkpoint::open(path(name), system_files());
    QuantizeOptions options;
    options.recipe = "nvfp4";
    options.compute_dtype = compute;
    const Plan plan = make_plan(source, options);
    EXPECT_FALSE(plan.refused());
    const Activations rows{.rows = testing::tiny_rows(plan.model->vocabulary.size),
                           .amax = {},
                           .origin = "rows",
                           .identity = "rows"};
    return testing::run_job(source, plan, rows, path("out-" + name + text_of(compute)));
  }
  Checkpoint output(const std::string& name, ComputeDtype compute) const {
    return Checkpoint::open(path("out-" + name + text_of(compute)), system_files());
  }

  static std::string text_of(ComputeDtype compute) {
    return compute == ComputeDtype::kF32 ? "-float" : "-bf16";
  }
  std::filesystem::path path(const std::string& name) const { return folder_.path() / name; }

 private:
  testing::TemporaryFolder folder_;
};

TEST_F(PlainSource, InF16IsWhatItHolds) {
  for (const char* preset : {"qwen3-tiny", "qwen3-moe-tiny"}) {  // a tied head, and one of its own
    make(preset);
    for (const ComputeDtype compute : {ComputeDtype::kF32, ComputeDtype::kBF16}) {
      SCOPED_TRACE(preset + text_of(compute));
      const RunRecord half = quantize("f16", compute), wide = quantize("f32", compute);
      EXPECT_EQ(half.perplexity, wide.perplexity);
      EXPECT_EQ(half.layers, wide.layers);
      const Checkpoint source = Checkpoint::open(path("f16"), system_files());
      const Checkpoint from_half = output("f16", compute), from_wide = output("f32", compute);
      for (const Tensor& tensor : from_half.tensors()) {
        const bool is_kept = tensor.dtype == Dtype::kF16;
        ASSERT_EQ(tensor_bytes(from_half, tensor.name),
                  tensor_bytes(is_kept ? source : from_wide, tensor.name))
            << tensor.name;
      }
      for (const char* name : {"out-f16", "out-f32"})
        std::filesystem::remove_all(path(name + text_of(compute)));
    }
    for (const char* name : {"bf16", "f16", "f32"}) std::filesystem::remove_all(path(name));
  }
}

TEST(PlainRows, AreConvertedHoweverTheyAreCut) {
  std::vector<f16> halves;
  for (uint32_t bits = 0; bits < 5000; ++bits) halves.push_back({static_cast<uint16_t>(bits * 6)});
  const std::span<const std::byte> all = std::as_bytes(std::span(halves));
  for (const size_t piece : {1, 3, 4096, 10000}) {
    PlainRows rows(Dtype::kF16, ComputeDtype::kF32);
    EXPECT_TRUE(rows.is_wide());
    std::string found;
    for (size_t begin = 0; begin < all.size(); begin += piece) {
      rows.add(all.subspan(begin, std::min(piece, all.size() - begin)), nullptr,
               [&](std::span<const std::byte> part, const PlainRows::Owner& owner) {
                 EXPECT_NE(owner, nullptr);
                 found.append(reinterpret_cast<const char*>(part.data()), part.size());
               });
    }
    std::vector<float> expected;
    for (const f16 value : halves) expected.push_back(to_float(value));
    EXPECT_EQ(found, bytes_of(expected)) << piece;
  }
}

}  // namespace
}  // namespace nibblecast
