// Two checkpoints held against each other: what counts as equal, what errors are, and what is refused.
#include "pipeline/compare.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "stored_checkpoint.h"

namespace nibblecast {
namespace {

using testing::bytes_of;
using ::testing::ElementsAre;
using testing::expect_error;
using ::testing::IsEmpty;
using testing::StoredTensor;
using testing::TemporaryFolder;
using testing::write_checkpoint;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

class Compare : public ::testing::Test {
 protected:
  CompareReport compare_of(std::vector<StoredTensor> a, std::vector<StoredTensor> b,
                           const CompareOptions& options = {}) {
    write_checkpoint(folder_.path() / "a", std::move(a));
    write_checkpoint(folder_.path() / "b", std::move(b));
    return compare(Checkpoint::open(folder_.path() / "a", system_files()),
                   Checkpoint::open(folder_.path() / "b", system_files()), options);
  }

 private:
  TemporaryFolder folder_;
};

StoredTensor floats(const std::string& name, const std::vector<float>& values) {
  return {name, Dtype::kF32, {1, values.size()}, bytes_of(values)};
}

TEST(ValueErrors, AreThoseOfTheDefinition) {
  const float a[] = {1, -2, 0, 4, 0.5f}, b[] = {1, -2.5f, 0.25f, 4, 0.375f};
  const ValueErrors errors = value_errors(a, b, 5);
  EXPECT_FALSE(errors.equal);
  EXPECT_DOUBLE_EQ(errors.signal, 1 + 4 + 16 + 0.25);
  EXPECT_DOUBLE_EQ(errors.noise, 0.25 + 0.0625 + 0.015625);
  EXPECT_EQ(errors.max_abs, 0.5);
  EXPECT_EQ(errors.max_rel, 0.25);  // of -2 and of 0.5; 0 has no relative error
  EXPECT_NEAR(errors.snr_db(), 10 * std::log10(21.25 / 0.328125), 1e-12);
}

TEST(ValueErrors, ZeroHasNoSignAndNaNIsNaN) {
  const float a[] = {0.0f, kNaN, 1}, b[] = {-0.0f, -kNaN, 1};
  const ValueErrors errors = value_errors(a, b, 3);
  EXPECT_TRUE(errors.equal);
  EXPECT_EQ(errors.snr_db(), std::numeric_limits<double>::infinity());
}

TEST(ValueErrors, WhatIsNoNumberOnOneSideHasNoError) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const auto& [a, b] :
       {std::pair(1.0f, kNaN), {kInfinity, 1.0f}, {kInfinity, -kInfinity}, {kNaN, 2.0f}}) {
    ValueErrors errors = value_errors(&a, &b, 1);
    errors.merge(value_errors(&kInfinity, &kInfinity, 1));
    EXPECT_FALSE(errors.equal);
    EXPECT_TRUE(std::isnan(errors.snr_db())) << a << " " << b;
    EXPECT_TRUE(std::isnan(errors.max_abs) && std::isnan(errors.max_rel));
  }
}

TEST_F(Compare, EveryModuleIsOfOneKindAndTheWorstComesFirst) {
  const CompareReport report = compare_of({floats("layers.0.a.weight", {1, 2, 3}),
                                           floats("layers.1.a.weight", {1, 2, 3}),
                                           floats("layers.2.a.weight", {1, 2, 3}),
                                           floats("layers.3.a.weight", {0, 2, 3}),
                                           {"ids", Dtype::kI64, {2}, bytes_of<int64_t>({1, 2})},
                                           floats("gone", {1})},
                                          {floats("layers.0.a.weight", {1, 2, 3}),
                                           floats("layers.1.a.weight", {1, 2, 3.5f}),
                                           floats("layers.2.a.weight", {1, 2, 4}),
                                           floats("layers.3.a.weight", {-0.0f, 2, 3}),
                                           {"ids", Dtype::kI64, {2}, bytes_of<int64_t>({1, 3})},
                                           floats("new", {1})});
  EXPECT_EQ(report.equal_bytes, 1);
  EXPECT_EQ(report.equal_values, 1);
  EXPECT_EQ(report.different, 3);
  EXPECT_THAT(report.only_in_a, ElementsAre("gone"));
  EXPECT_THAT(report.only_in_b, ElementsAre("new"));
  std::vector<std::string> names;
  for (const ModuleDifference& module : report.modules) names.push_back(module.name);
  EXPECT_THAT(names, ElementsAre("ids", "layers.2.a", "layers.1.a", "layers.3.a"));
  EXPECT_NEAR(report.modules[2].snr_db, 10 * std::log10(14 / 0.25), 1e-12);
  EXPECT_TRUE(std::isnan(report.modules[0].max_abs));
  EXPECT_TRUE(report.modules[3].equal_values);
  ASSERT_EQ(report.kinds.size(), 2);
  EXPECT_EQ(report.kinds[1].kind, "layers.*.a");
  EXPECT_EQ(report.kinds[1].different, 2);
  EXPECT_NEAR(report.kinds[1].least_snr_db, 10 * std::log10(14 / 1.0), 1e-12);
}

TEST_F(Compare, NvFp4OfBothDialectsHasOneValue) {
  const std::string codes(16, '\x21'), scales(2, '\x38');  // 0.5, 1 in turn; 1
  const StoredTensor block_scales{"m.weight_scale", Dtype::kF8E4M3, {1, 2}, scales};
  const CompareReport report =
      compare_of({{"m.weight", Dtype::kU8, {1, 16}, codes},
                  block_scales,
                  {"m.weight_scale_2", Dtype::kF32, {}, bytes_of<float>({0.25f})}},
                 {{"m.weight_packed", Dtype::kU8, {1, 16}, codes},
                  block_scales,
                  {"m.weight_global_scale", Dtype::kF32, {1}, bytes_of<float>({4})}});
  EXPECT_EQ(report.equal_values, 1);
  EXPECT_THAT(report.only_in_a, IsEmpty());
  ASSERT_EQ(report.modules.size(), 1);
  EXPECT_EQ(report.modules[0].name, "m");
}

// Rows that are read at once do not show in the figures: sums are taken in the order of rows.
TEST_F(Compare, ReadsEveryByteOnceAndInLittleMemory) {
  const uint64_t rows = 6000, cols = 1024;
  const StoredTensor wide{"m.weight", Dtype::kF32, {rows, cols}},
      narrow{"m.weight", Dtype::kBF16, {rows, cols}};
  uint64_t last = 0;
  const CompareReport report =
      compare_of({wide}, {narrow}, {.memory_bytes = 64 << 20, .progress = [&](uint64_t done, uint64_t bytes) {
                                      EXPECT_LE(done, bytes);
                                      last = done;
                                    }});
  EXPECT_EQ(report.read_bytes, rows * cols * 6);
  EXPECT_EQ(last, report.read_bytes);
  EXPECT_EQ(report.different, 1);
}

TEST_F(Compare, RefusesWhatCannotBeHeldAgainstEachOther) {
  expect_error(
      ErrorKind::kBadInput, [&] { compare_of({floats("a.weight", {1})}, {floats("b.weight", {1})}); },
      "has no tensor that", "of one model");
  expect_error(
      ErrorKind::kBadInput,
      [&] {
        compare_of({floats("a.weight", {1})}, {floats("a.weight", {1, 2})});
      },
      "a.weight", "has another shape", "[1, 1]", "[1, 2]");
  expect_error(
      ErrorKind::kUnsupported,
      [&] {
        compare_of({floats("a.weight", {1})}, {{"a.qweight", Dtype::kI32, {1, 1}}});
      },
      "a.qweight");
}

}  // namespace
}  // namespace nibblecast
