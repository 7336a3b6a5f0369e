// What tells that the source's weights are damaged: NaN and infinity where they are copied, and the
// perplexity of the calibration rows.
#include "pipeline/damage.h"

#include <cmath>
#include <cstring>
#include <random>

#include "model/forward_testing.h"
#include "pipeline/verify.h"
#include "pipeline_testing.h"
#include "plan/dequantize.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::make_tiny_source;
using testing::plain_amax;
using testing::run_job;
using testing::small_buffers;
using testing::TemporaryFolder;
using testing::tiny_rows;

class DamageTest : public ::testing::Test {
 protected:
  DamageTest() { make_tiny_source(source_folder()); }

  std::filesystem::path source_folder() const { return folder_.path() / "source"; }
  std::filesystem::path out() const { return folder_.path() / "out"; }
  Checkpoint source() const { return Checkpoint::open(source_folder(), system_files()); }
  Activations amax(const Plan& plan) const {
    return {.rows = {}, .amax = plain_amax(plan), .origin = "test", .identity = "a"};
  }

  // Overwrites bytes of a tensor; where they lie in the file.
  uint64_t damage(const std::string& tensor, uint64_t at, std::vector<uint8_t> bytes) const {
    const Checkpoint in = source();
    const Tensor& found = in.at(tensor);
    const auto file =
        system_files().open(source_folder() / in.shards()[found.shard].name, Access::kUpdateDirect);
    file->write(found.offset + at, std::as_bytes(std::span(bytes)));
    return found.offset + at;
  }

  void expect_refused(const std::string& tensor, uint64_t offset, const std::string& count) const {
    const Checkpoint in = source();
    const Plan plan = make_plan(in, {});
    expect_error(
        ErrorKind::kBadInput, [&] { run_job(in, plan, amax(plan), out()); }, "'" + tensor + "'",
        "at byte " + std::to_string(offset), count, "--allow-nonfinite");
    for (const auto& entry : std::filesystem::directory_iterator(out())) {
      const std::string name = entry.path().filename();
      EXPECT_TRUE(name == ".nibblecast" || name.ends_with(".partial")) << name;
    }
  }

  TemporaryFolder folder_;
};

TEST_F(DamageTest, NanInAnFp8WeightIsRefusedByName) {
  const uint64_t at = damage("layers.1.attn.wq_b.weight", 77, {0x7f, 0x01, 0xff});
  expect_refused("layers.1.attn.wq_b.weight", at, "2 values are NaN or infinite");
}

TEST_F(DamageTest, NanInItsScalesIsRefusedByName) {
  const uint64_t at = damage("layers.0.attn.wkv.scale", 0, {0xff});
  expect_refused("layers.0.attn.wkv.scale", at, "a value is NaN or infinite");
}

TEST_F(DamageTest, InfinityInTheHeadIsRefusedByName) {
  const uint64_t at = damage("head.weight", 2 * 1234, {0x80, 0x7f});
  expect_refused("head.weight", at, "a value is NaN or infinite");
}

TEST_F(DamageTest, NanInAHyperConnectionIsRefusedByName) {
  const uint64_t at = damage("layers.2.hc_ffn_fn", 4 * 9, {0x01, 0x00, 0x80, 0xff});
  expect_refused("layers.2.hc_ffn_fn", at, "a value is NaN or infinite");
}

TEST_F(DamageTest, ARunWithRowsSaysTheSame) {
  const uint64_t at = damage("layers.1.attn.wq_b.weight", 77, {0x7f});
  const Checkpoint in = source();
  const Plan plan = make_plan(in, {});
  const Activations rows = Activations::from_rows(tiny_rows(plan.model->vocabulary.size), "test");
  Job job = Job::open(system_files(), folder_.path() / "job", {}, testing::describe(in, plan, rows));
  expect_error(
      ErrorKind::kBadInput, [&] { calibrate(in, plan, rows, job, small_buffers()); },
      "layers.1.attn.wq_b.weight", "at byte " + std::to_string(at));
}

TEST_F(DamageTest, AWideCopyIsRefusedToo) {
  damage("layers.1.attn.wq_b.weight", 77, {0x7f});
  const Checkpoint in = source();
  const Activations none{.rows = {}, .amax = {}, .origin = "", .identity = "none", .products = ""};
  expect_error(
      ErrorKind::kBadInput, [&] { run_job(in, make_dequantize_plan(in, {}), none, out()); },
      "layers.1.attn.wq_b.weight");
}

TEST_F(DamageTest, AllowedItIsCopiedAndRecorded) {
  damage("norm.weight", 2, {0x80, 0x7f, 0xc0, 0x7f});
  const Checkpoint in = source();
  const Plan plan = make_plan(in, {});
  RunOptions options = small_buffers();
  options.allow_nonfinite = true;
  const RunRecord record = run_job(in, plan, amax(plan), out(), options);
  EXPECT_EQ(record.nonfinite, (std::map<std::string, NonFinite>{{"norm.weight", {2, 2}}}));
  const Checkpoint made = Checkpoint::open(out(), system_files());
  EXPECT_EQ(TensorReader(in).read(in.at("norm.weight")), TensorReader(made).read(made.at("norm.weight")));
  const VerifyReport report = verify(in, out(), system_files());
  EXPECT_TRUE(report.ok());
  bool noted = false;
  for (const std::string& note : report.notes)
    noted |= note.find("norm.weight: 2 values") != std::string::npos;
  EXPECT_TRUE(noted);
}

TEST_F(DamageTest, WhatAnEarlierAttemptAllowedIsRefusedByTheNext) {
  damage("embed.weight", 2, {0x80, 0x7f});
  const Checkpoint in = source();
  const Plan plan = make_plan(in, {});
  struct Stopped {};
  RunOptions options = small_buffers();
  options.allow_nonfinite = true;
  options.commit_interval = std::chrono::milliseconds(1);
  options.progress = [](const Progress& progress) {
    if (progress.phase == Phase::kFinish) throw Stopped();
  };
  EXPECT_THROW(run_job(in, plan, amax(plan), out(), options), Stopped);
  expect_error(
      ErrorKind::kBadInput, [&] { run_job(in, plan, amax(plan), out()); }, "embed.weight");
  options.progress = {};
  EXPECT_EQ(run_job(in, plan, amax(plan), out(), options).nonfinite.size(), 1u);
}

// A tensor comes in pieces of any size.
TEST_F(DamageTest, CountsOverPieces) {
  const Checkpoint in = source();
  const Tensor& tensor = in.at("head.weight");
  std::vector<std::byte> bytes(tensor.size_bytes);
  for (const size_t at : {0u, 1002u, 5000u}) bytes[at] = std::byte{0x80}, bytes[at + 1] = std::byte{0x7f};
  NonFiniteCount count(in, true);
  for (size_t begin = 0; begin < bytes.size(); begin += 1000)
    count.add(tensor, begin, std::span(bytes).subspan(begin, std::min<size_t>(1000, bytes.size() - begin)));
  EXPECT_EQ(count.of("head.weight"), (NonFinite{3, 0}));
  EXPECT_EQ(count.of("norm.weight"), NonFinite{});
}

TEST(CheckPerplexity, ComparesAndFailsOnNan) {
  const auto of = [](double value) { return Perplexity{.nll_sum = 10 * std::log(value), .tokens = 10}; };
  check_perplexity(of(31), std::nullopt);
  check_perplexity(of(31), 31.5);
  expect_error(
      ErrorKind::kVerifyFailed, [&] { check_perplexity(of(32), 31.5); }, "at most 31.5", "32");
  expect_error(
      ErrorKind::kVerifyFailed, [&] { check_perplexity(of(NAN), 31.5); }, "nan");
  expect_error(
      ErrorKind::kVerifyFailed, [&] { check_perplexity(of(INFINITY), 31.5); }, "inf");
  expect_error(
      ErrorKind::kRefused, [&] { check_perplexity(std::nullopt, 31.5); }, "is not known");
  expect_error(
      ErrorKind::kRefused, [&] { check_perplexity(Perplexity{}, 31.5); }, "is not known");
}

TEST(CheckPerplexity, SurvivesAnAmaxFilesMetadata) {
  std::map<std::string, std::string> metadata;
  EXPECT_EQ(find_perplexity(metadata), std::nullopt);
  const Perplexity perplexity{.nll_sum = 81326.897833645123, .tokens = 24528};
  add_perplexity(perplexity, metadata);
  EXPECT_EQ(find_perplexity(metadata), perplexity);
  metadata["perplexity_nll_sum"] = "81k";
  expect_error(
      ErrorKind::kBadInput, [&] { find_perplexity(metadata); }, "perplexity_nll_sum");
}

TEST_F(DamageTest, PerplexityIsRecordedAndKeptInTheAmaxFile) {
  const Checkpoint in = source();
  const Plan plan = make_plan(in, {});
  const Activations rows = Activations::from_rows(tiny_rows(plan.model->vocabulary.size), "test");
  const RunRecord record = run_job(in, plan, rows, out());
  ASSERT_TRUE(record.perplexity);
  EXPECT_EQ(record.perplexity->tokens, 4u * 47);
  EXPECT_GT(record.perplexity->value(), 100);  // weights at random
  const Activations file = Activations::from_amax(system_files(), out() / "calibration/amax.safetensors");
  const RunRecord again = run_job(in, plan, file, folder_.path() / "again");
  EXPECT_EQ(again.perplexity, record.perplexity);
}

TEST_F(DamageTest, ARunAboveTheLimitMakesNoCheckpoint) {
  const Checkpoint in = source();
  const Plan plan = make_plan(in, {});
  const Activations rows = Activations::from_rows(tiny_rows(plan.model->vocabulary.size), "test");
  RunOptions options = small_buffers();
  options.max_perplexity = 2;
  for (int attempt = 0; attempt < 2; ++attempt) {
    expect_error(
        ErrorKind::kVerifyFailed, [&] { run_job(in, plan, rows, out(), options); }, "does not predict");
    EXPECT_FALSE(std::filesystem::exists(out() / "config.json"));
  }
  options.max_perplexity = 1e9;  // the same job goes on
  EXPECT_LT(run_job(in, plan, rows, out(), options).read_bytes, plan.source_bytes / 2);
  EXPECT_TRUE(std::filesystem::exists(out() / "config.json"));
}

TEST_F(DamageTest, RowsOfOneTokenPredictNothing) {
  const Checkpoint in = source();
  const Plan plan = make_plan(in, {});
  const Activations rows = Activations::from_rows(tiny_rows(plan.model->vocabulary.size, 8, 1), "test");
  const RunRecord record = run_job(in, plan, rows, out());
  ASSERT_TRUE(record.perplexity);
  EXPECT_EQ(record.perplexity->tokens, 0u);
  RunOptions options = small_buffers();
  options.max_perplexity = 100;
  expect_error(
      ErrorKind::kRefused, [&] { run_job(in, plan, rows, folder_.path() / "other", options); },
      "is not known");
}

// transformers' own losses of the model in the repository.
TEST_F(DamageTest, PerplexityOfARunIsThatOfTransformers) {
  const auto golden = std::filesystem::path(NIBBLECAST_SOURCE_DIR) / "tests/model/golden/clamp-and-sliding";
  const testing::TensorFile expected(golden / "golden.safetensors");
  CalibrationRows rows;
  Perplexity all;
  for (const std::string row : {"row0.", "row1."}) {
    rows.ids.push_back(expected.read<int32_t>(row + "input_ids"));
    for (const float nll : expected.read<float>(row + "nll")) all.nll_sum += double{nll}, ++all.tokens;
  }
  const Checkpoint in = Checkpoint::open(golden, system_files());
  QuantizeOptions options;
  options.compute_dtype = ComputeDtype::kF32;
  const Plan plan = make_plan(in, options);
  const Activations activations = Activations::from_rows(rows, "test");
  Job job = Job::open(system_files(), folder_.path() / "job", {}, testing::describe(in, plan, activations));
  const RunRecord record = calibrate(in, plan, activations, job, small_buffers());
  ASSERT_TRUE(record.perplexity);
  EXPECT_EQ(record.perplexity->tokens, all.tokens);
  EXPECT_TRUE(std::abs(record.perplexity->value() / all.value() - 1) <= 1e-4) << record.perplexity->value();
}

// A trained model whose experts of some layers are noise: every block is lossless, every expert sees tokens.
TEST_F(DamageTest, RandomExpertsRaiseThePerplexity) {
  SKIP_WITHOUT_SHARED_MODEL(model, "tiny-v4");
  const testing::TensorFile oracle(model / "oracle.safetensors");
  CalibrationRows rows;
  rows.ids = oracle.rows("calib.input_ids", 512, 4);
  const auto copy = folder_.path() / "copy";
  std::filesystem::create_directory(copy);
  for (const auto& entry : std::filesystem::directory_iterator(model)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with("oracle")) std::filesystem::copy(entry.path(), copy / name);
  }
  const auto perplexity = [&](const std::string& job_folder) {
    const Checkpoint in = Checkpoint::open(copy, system_files());
    const Plan plan = make_plan(in, {});
    const Activations activations = Activations::from_rows(rows, "test");
    Job job =
        Job::open(system_files(), folder_.path() / job_folder, {}, testing::describe(in, plan, activations));
    return calibrate(in, plan, activations, job, small_buffers()).perplexity.value().value();
  };
  const double before = perplexity("a");
  const Checkpoint in = Checkpoint::open(copy, system_files());
  std::mt19937 random(1);
  for (const Tensor& tensor : in.tensors()) {
    const bool of_layers =
        tensor.name.starts_with("layers.3.ffn.experts.") || tensor.name.starts_with("layers.4.ffn.experts.");
    if (!of_layers || !tensor.name.ends_with(".weight")) continue;
    std::vector<std::byte> bytes(tensor.size_bytes);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    const auto path = copy / in.shards()[tensor.shard].name;
    std::filesystem::permissions(path, std::filesystem::perms::owner_write,
                                 std::filesystem::perm_options::add);
    system_files().open(path, Access::kUpdateDirect)->write(tensor.offset, bytes);
  }
  const double after = perplexity("b");
  EXPECT_GT(after, 1.5 * before) << before;  // 1.8 times it, on any of the texts
}

}  // namespace
}  // namespace nibblecast
