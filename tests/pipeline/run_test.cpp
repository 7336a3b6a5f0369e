#include "pipeline/run.h"

#include <cmath>
#include <cstring>

#include "base/parallel.h"
#include "checkpoint/safetensors.h"
#include "formats/nvfp4.h"
#include "model/families/deepseek_v4/tensors.h"
#include "pipeline_testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::folder_hashes;
using testing::make_tiny_source;
using testing::plain_amax;
using testing::run_job;
using testing::small_buffers;
using testing::TemporaryFolder;
using testing::tiny_rows;

class RunTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder();
    make_tiny_source(folder_->path() / "source");
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }
  std::filesystem::path source_folder() const { return folder_->path() / "source"; }
  Checkpoint source() const { return Checkpoint::open(source_folder(), system_files()); }
  Activations amax(const Plan& plan) const {
    return {.rows = {}, .amax = plain_amax(plan), .origin = "test", .identity = "a"};
  }

  TemporaryFolder work_;

 private:
  static TemporaryFolder* folder_;
};
TemporaryFolder* RunTest::folder_ = nullptr;

float scalar(TensorReader& reader, const Checkpoint& checkpoint, const std::string& name) {
  float value = 0;
  std::memcpy(&value, reader.read(checkpoint.at(name)).data(), sizeof value);
  return value;
}

TEST_F(RunTest, MakesACheckpointOfWhatThePlanSays) {
  const Checkpoint in = source();
  const Plan plan = make_plan(in, {});
  EXPECT_FALSE(plan.refused());
  const RunRecord record = run_job(in, plan, amax(plan), work_.path() / "out");

  const Checkpoint out = Checkpoint::open(work_.path() / "out", system_files());
  ASSERT_EQ(out.tensors().size(), plan.tensors.size());
  EXPECT_EQ(out.data_bytes(), plan.output_bytes);
  EXPECT_EQ(out.index_metadata()["total_size"], plan.output_bytes);
  for (const PlannedTensor& planned : plan.tensors) {
    const Tensor& tensor = out.at(planned.out.name);
    EXPECT_EQ(tensor.offset, planned.out.offset) << tensor.name;
    EXPECT_EQ(tensor.dtype, planned.out.dtype) << tensor.name;
  }
  EXPECT_EQ(record.written_bytes, plan.output_file_bytes);
  EXPECT_GT(record.blocks.blocks, 0u);
  EXPECT_FALSE(std::filesystem::exists(work_.path() / "out/.nibblecast"));
  EXPECT_TRUE(std::filesystem::exists(work_.path() / "out/tokenizer.json"));
  EXPECT_TRUE(std::filesystem::exists(work_.path() / "out/README.source.md"));
}

TEST_F(RunTest, KeptTensorsAndNibblesAreTheSources) {
  const Checkpoint in = source();
  const Plan plan = make_plan(in, {});
  run_job(in, plan, amax(plan), work_.path() / "out");
  const Checkpoint out = Checkpoint::open(work_.path() / "out", system_files());
  TensorReader from(in), to(out);
  for (const PlannedTensor& planned : plan.tensors) {
    if (planned.make != Make::kKeep && planned.make != Make::kCastWeight) continue;
    EXPECT_EQ(from.read(in.at(planned.out.name)), to.read(out.at(planned.out.name))) << planned.out.name;
  }
}

TEST_F(RunTest, InputScalesFollowThePolicy) {
  const Checkpoint in = source();
  QuantizeOptions options;
  Plan plan = make_plan(in, options);
  const AmaxFile made = plain_amax(plan);
  const float largest = made.layers[0].taps.at("experts.in").back();
  run_job(in, plan, amax(plan), work_.path() / "layer");
  const Checkpoint layer = Checkpoint::open(work_.path() / "layer", system_files());
  TensorReader reader(layer);
  EXPECT_EQ(scalar(reader, layer, "layers.1.ffn.experts.0.w1.input_scale"), nvfp4_global_scale(largest));
  EXPECT_EQ(scalar(reader, layer, "layers.1.ffn.experts.2.w2.input_scale"), nvfp4_global_scale(largest / 2));

  options.input_scale = InputScalePolicy::kExpert;
  options.w2_input = W2Input::kWeighted;
  plan = make_plan(in, options);
  run_job(in, plan, amax(plan), work_.path() / "expert");
  const Checkpoint expert = Checkpoint::open(work_.path() / "expert", system_files());
  TensorReader reader2(expert);
  EXPECT_EQ(scalar(reader2, expert, "layers.1.ffn.experts.1.w3.input_scale"), nvfp4_global_scale(1.01f));
  EXPECT_EQ(scalar(reader2, expert, "layers.1.ffn.experts.1.w2.input_scale"), nvfp4_global_scale(1.01f / 4));
}

TEST_F(RunTest, BytesDoNotDependOnThreadsOrMemory) {
  const Checkpoint in = source();
  const Plan plan = make_plan(in, {});
  const Activations rows = Activations::from_rows(tiny_rows(plan.model->vocabulary.size), "test");
  run_job(in, plan, rows, work_.path() / "a");
  {
    const ThreadLimit one(1);
    run_job(in, plan, rows, work_.path() / "b", small_buffers(1));
  }
  EXPECT_EQ(folder_hashes(work_.path() / "a"), folder_hashes(work_.path() / "b"));
}

TEST_F(RunTest, CalibrationFileGivesTheSameOutputAsTheRun) {
  const Checkpoint in = source();
  const Plan plan = make_plan(in, {});
  const Activations rows = Activations::from_rows(tiny_rows(plan.model->vocabulary.size), "test");
  run_job(in, plan, rows, work_.path() / "a");
  RunOptions options = small_buffers();
  options.amax_output = work_.path() / "amax.safetensors";
  Job job = Job::open(system_files(), work_.path() / "job", {}, testing::describe(in, plan, rows));
  const RunRecord record = calibrate(in, plan, rows, job, options);
  EXPECT_EQ(record.layers.size(), plan.layers());
  run_job(in, plan, Activations::from_amax(system_files(), options.amax_output), work_.path() / "b");
  auto a = folder_hashes(work_.path() / "a"), b = folder_hashes(work_.path() / "b");
  EXPECT_EQ(a.at("calibration/amax.safetensors"), folder_hashes(work_.path()).at("amax.safetensors"));
  a.erase("README.md"), b.erase("README.md");  // tells where the scales are from
  EXPECT_EQ(a, b);
}

TEST_F(RunTest, StarvedExpertsGetTheirOwnLayersMaximum) {
  const Checkpoint in = source();
  QuantizeOptions options;
  options.input_scale = InputScalePolicy::kExpert;
  const Plan plan = make_plan(in, options);
  const Activations rows = Activations::from_rows(tiny_rows(plan.model->vocabulary.size, 1, 2), "test");
  const RunRecord record = run_job(in, plan, rows, work_.path() / "out");
  const Checkpoint out = Checkpoint::open(work_.path() / "out", system_files());
  TensorReader reader(out);
  size_t starved = 0;
  for (uint64_t layer = 0; layer < plan.layers(); ++layer) {
    const std::vector<float>& amax = record.layers[layer].taps.at("experts.in");
    const float largest = *std::max_element(amax.begin(), amax.end());
    for (uint64_t expert = 0; expert < amax.size(); ++expert) {
      const std::string module = expert_module(layer, expert, 1);
      const float found = scalar(reader, out, module + ".input_scale");
      EXPECT_EQ(found, nvfp4_global_scale(amax[expert] == 0 ? largest : amax[expert])) << module;
      starved += amax[expert] == 0;
    }
  }
  size_t reported = 0;
  for (const auto& experts : record.without_tokens) reported += experts.size();
  EXPECT_GT(starved, 0u);
  EXPECT_EQ(reported, starved);
}

// A source with one byte of one tensor changed.
void change_byte(const std::filesystem::path& folder, const std::string& tensor, uint64_t at, uint8_t value) {
  const Checkpoint in = Checkpoint::open(folder, system_files());
  const Tensor& found = in.at(tensor);
  FILE* file = std::fopen((folder / in.shards()[found.shard].name).c_str(), "r+b");
  ASSERT_NE(file, nullptr);
  std::fseek(file, static_cast<long>(found.offset + at), SEEK_SET);
  std::fputc(value, file);
  std::fclose(file);
}

TEST_F(RunTest, NanScaleIsRefusedWithTensorAndOffset) {
  std::filesystem::copy(source_folder(), work_.path() / "bad", std::filesystem::copy_options::recursive);
  change_byte(work_.path() / "bad", "layers.1.ffn.experts.2.w3.scale", 5, 255);
  const Checkpoint in = Checkpoint::open(work_.path() / "bad", system_files());
  const Plan plan = make_plan(in, {});
  const uint64_t offset = in.at("layers.1.ffn.experts.2.w3.scale").offset + 5;
  expect_error(
      ErrorKind::kBadInput, [&] { run_job(in, plan, amax(plan), work_.path() / "out"); },
      "layers.1.ffn.experts.2.w3.scale", "at byte " + std::to_string(offset), "NaN");
  for (const auto& entry : std::filesystem::directory_iterator(work_.path() / "out")) {
    const std::string name = entry.path().filename();
    EXPECT_TRUE(name == ".nibblecast" || name.ends_with(".partial")) << name;
  }
}

TEST_F(RunTest, BlockOutsideTheWindowIsCountedAndNamed) {
  std::filesystem::copy(source_folder(), work_.path() / "wide", std::filesystem::copy_options::recursive);
  change_byte(work_.path() / "wide", "layers.0.ffn.experts.1.w2.scale", 3, 60);
  change_byte(work_.path() / "wide", "layers.0.ffn.experts.1.w2.weight", 3 * 16, 0x57);
  const Checkpoint in = Checkpoint::open(work_.path() / "wide", system_files());
  const Plan plan = make_plan(in, {});
  const RunRecord record = run_job(in, plan, amax(plan), work_.path() / "out");
  EXPECT_EQ(record.blocks.outside_window, 1u);
  EXPECT_EQ(record.outside_window.at("layers.0.ffn.experts.1.w2.weight"), 1u);
}

TEST_F(RunTest, AmaxAboveTheBoundIsRefused) {
  const Checkpoint in = source();
  const Plan plan = make_plan(in, {});
  Activations bad = amax(plan);
  bad.amax->layers[1].taps.at("experts.mid")[3] = 1e9f;
  expect_error(
      ErrorKind::kBadInput, [&] { run_job(in, plan, bad, work_.path() / "out"); },
      "layers.1.experts.mid.amax", "expert 3", "garbage");
}

TEST_F(RunTest, SourceThatChangedMeanwhileIsAnError) {
  std::filesystem::copy(source_folder(), work_.path() / "cut", std::filesystem::copy_options::recursive);
  const Checkpoint in = Checkpoint::open(work_.path() / "cut", system_files());
  const Plan plan = make_plan(in, {});
  const std::filesystem::path shard = work_.path() / "cut" / in.shards()[1].name;
  std::filesystem::resize_file(shard, std::filesystem::file_size(shard) - 1000);
  expect_error(
      ErrorKind::kIo, [&] { run_job(in, plan, amax(plan), work_.path() / "out"); }, in.shards()[1].name,
      "ends");
  EXPECT_FALSE(std::filesystem::exists(work_.path() / "out/config.json"));
}

// ModelOpt's own bytes for the same model and amax (weight, weight_scale, weight_scale_2, input_scale of
// layer 2).
TEST(RunModelOptTest, CastEqualsModelOptsBytes) {
  SKIP_WITHOUT_SHARED_MODEL(model, "tiny-v4");
  SKIP_WITHOUT_SHARED_MODEL(modelopt, "tiny-v4-modelopt");
  const Checkpoint in = Checkpoint::open(model, system_files());
  QuantizeOptions options;
  options.input_scale = InputScalePolicy::kExpert;
  options.w2_input = W2Input::kWeighted;
  options.negative_zero = NegativeZero::kModelOpt;
  const Plan plan = make_plan(in, options);

  const auto oracle = system_files().open(model / "oracle.safetensors", Access::kRead);
  const SafetensorsHeader header = read_safetensors_header(*oracle);
  const auto floats = [&](const std::string& name) {
    for (const Tensor& tensor : header.tensors) {
      if (tensor.name != name) continue;
      std::vector<float> values(tensor.size_bytes / 4);
      oracle->read(tensor.offset, std::as_writable_bytes(std::span(values)));
      return values;
    }
    ADD_FAILURE() << name;
    return std::vector<float>();
  };
  AmaxFile amax;
  for (uint64_t layer = 0; layer < plan.layers(); ++layer) {
    const std::string prefix = "calib.layers." + std::to_string(layer) + ".experts.";
    LayerAmax one;
    one.layer = layer;
    one.taps["experts.in"] = floats(prefix + "w13");
    one.taps["experts.mid_weighted"] = floats(prefix + "w2_weighted");
    amax.layers.push_back(std::move(one));
  }
  TemporaryFolder work;
  run_job(in, plan, {.rows = {}, .amax = amax, .origin = "oracle", .identity = "o"}, work.path() / "out");

  const Checkpoint out = Checkpoint::open(work.path() / "out", system_files());
  TensorReader reader(out);
  const auto theirs = system_files().open(modelopt / "layer2.safetensors", Access::kRead);
  size_t compared = 0;
  for (const Tensor& tensor : read_safetensors_header(*theirs).tensors) {
    if (!tensor.name.starts_with("cast/")) continue;
    const Tensor& ours = out.at(tensor.name.substr(5));
    std::vector<std::byte> bytes(tensor.size_bytes);
    theirs->read(tensor.offset, bytes);
    EXPECT_EQ(ours.dtype, tensor.dtype) << ours.name;
    EXPECT_EQ(ours.shape, tensor.shape) << ours.name;
    EXPECT_TRUE(reader.read(ours) == bytes) << ours.name;
    ++compared;
  }
  EXPECT_EQ(compared, 16u * 3 * 4);
}

}  // namespace
}  // namespace nibblecast
