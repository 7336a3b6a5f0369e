// `convert --to mxfp4`: release -> NVFP4 -> release, to the byte; what does not fit is refused by name.
#include "plan/convert.h"

#include <gmock/gmock.h>

#include "checkpoint/run_record.h"
#include "pipeline/verify.h"
#include "stored_checkpoint.h"

namespace nibblecast {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using testing::edit_tensor;
using ::testing::ElementsAre;
using testing::expect_error;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kNoActivations;
using testing::plain_amax;
using testing::run_job;
using testing::StoredTensor;
using testing::TemporaryFolder;
using testing::tensor_bytes;
using testing::write_checkpoint;

std::string text_of(const fs::path& path) { return read_text(system_files(), path, 1 << 30); }

class Convert : public ::testing::Test {
 protected:
  // A release with zero blocks under byte 0 and under another, made NVFP4.
  void make_nvfp4(const QuantizeOptions& options = {}) {
    testing::make_tiny_source(path("release"));
    const std::string module = "layers.1.ffn.experts.2.w2";
    edit_tensor(path("release"), module + ".weight", 0, std::string(32, '\0'));
    edit_tensor(path("release"), module + ".weight", 32, std::string(16, '\x80'));
    edit_tensor(path("release"), module + ".scale", 0, std::string(1, '\0'));
    const Checkpoint in = open("release");
    const Plan plan = make_plan(in, options);
    run_job(in, plan, {.rows = {}, .amax = plain_amax(plan), .origin = "test", .identity = "test"},
            path("nvfp4"));
  }
  Plan convert() {
    const Checkpoint in = open("nvfp4");
    Plan plan = make_convert_plan(in);
    run_job(in, plan, kNoActivations, path("back"));
    return plan;
  }
  void convert_again() {
    fs::remove_all(path("back"));
    convert();
  }
  void expect_same_tensors() {
    const Checkpoint release = open("release"), back = open("back");
    ASSERT_EQ(release.tensors().size(), back.tensors().size());
    for (const Tensor& tensor : release.tensors()) {
      const Tensor& other = back.at(tensor.name);
      EXPECT_EQ(tensor.dtype, other.dtype) << tensor.name;
      EXPECT_EQ(tensor.shape, other.shape) << tensor.name;
      EXPECT_EQ(release.shards()[tensor.shard].name, back.shards()[other.shard].name) << tensor.name;
      EXPECT_TRUE(tensor_bytes(release, tensor.name) == tensor_bytes(back, tensor.name)) << tensor.name;
    }
  }

  std::vector<std::string> problems() const {
    return verify(open("nvfp4"), path("back"), system_files()).problems;
  }

  fs::path path(const std::string& name) const { return folder_.path() / name; }
  Checkpoint open(const std::string& name) const { return Checkpoint::open(path(name), system_files()); }

 private:
  TemporaryFolder folder_;
};

TEST_F(Convert, FromOurOutputEveryFileOfTheReleaseComesBack) {
  make_nvfp4();
  const Plan plan = convert();
  EXPECT_TRUE(plan.findings.empty());
  expect_same_tensors();
  std::vector<std::string> names = {"config.json", "model.safetensors.index.json"};
  const Checkpoint release = open("release");
  for (const Shard& shard : release.shards()) names.push_back(shard.name);
  for (const std::string& name : names)
    EXPECT_TRUE(text_of(path("release") / name) == text_of(path("back") / name)) << name;
  EXPECT_FALSE(fs::exists(path("back") / "hf_quant_config.json"));
}

TEST_F(Convert, WithoutARecordTensorsAndConfigAreTheReleases) {
  make_nvfp4();
  fs::remove(path("nvfp4") / "nibblecast.json");
  const Plan plan = convert();
  ASSERT_EQ(plan.findings.size(), 1u);
  EXPECT_EQ(plan.findings[0].severity, Severity::kWarning);
  EXPECT_THAT(plan.findings[0].reason, HasSubstr("there is no nibblecast.json"));
  expect_same_tensors();
  EXPECT_TRUE(open("release").config() == open("back").config());
}

TEST_F(Convert, ARecordThatDoesNotFitIsPassedOver) {
  make_nvfp4();
  const Json good = read_run_record(system_files(), path("nvfp4"));
  Json other_name = good, other_size = good, other_type = good;
  std::string header = good["source"]["shards"][1]["header"];
  header.replace(header.find("layers.0"), 8, "layers.9");
  other_name["source"]["shards"][1]["header"] = header;
  other_size["source"]["shards"][1]["size_bytes"] = 7;
  other_type["source"]["shards"] = "none";
  for (const std::string& text :
       {other_name.dump(), other_size.dump(), other_type.dump(), std::string("{}"), std::string("[")}) {
    fs::remove_all(path("back"));
    write_text_durably(system_files(), path("nvfp4") / "nibblecast.json", text);
    const Plan plan = convert();
    ASSERT_EQ(plan.findings.size(), 1u);
    EXPECT_EQ(plan.findings[0].severity, Severity::kWarning);
    EXPECT_NE(plan.findings[0].reason.find("nibblecast.json"), std::string::npos);
    expect_same_tensors();
  }
}

// With the release's own documents, and with those that are made without a record of it.
TEST_F(Convert, VerifyProvesTheOutput) {
  make_nvfp4();
  for (const bool recorded : {true, false}) {
    if (!recorded) {
      fs::remove(path("nvfp4") / "nibblecast.json");
      fs::remove_all(path("back"));
    }
    convert();
    const VerifyReport report = verify(open("nvfp4"), path("back"), system_files());
    EXPECT_THAT(report.problems, IsEmpty());
    EXPECT_GT(report.made_bytes, 0u);
    EXPECT_GT(report.kept_bytes, 0u);
    EXPECT_THAT(report.notes, ElementsAre("made by: convert mxfp4"));
  }
  const std::string name = "layers.2.ffn.experts.1.w1.weight";
  edit_tensor(path("back"), name, 3, std::string(1, '\x77'));
  EXPECT_THAT(problems(), ElementsAre(HasSubstr(name + ": 2 of"), HasSubstr(name + ": 1 of")));
  convert_again();
  edit_tensor(path("back"), "layers.2.ffn.experts.1.w1.scale", 3, std::string(1, '\x01'));
  EXPECT_THAT(problems(), Contains(HasSubstr("layers.2.ffn.experts.1.w1.scale")));
  convert_again();
  edit_tensor(path("back"), "layers.0.attn.wq_a.weight", 3, "abc");
  EXPECT_THAT(problems(), ElementsAre(HasSubstr("layers.0.attn.wq_a.weight")));
}

TEST_F(Convert, WhatWasQuantizedIsRefusedWithItsFirstBlock) {
  QuantizeOptions options;
  options.weight_method = RecipeMethod::kMax;
  make_nvfp4(options);
  expect_error(
      ErrorKind::kRefused, [&] { convert(); }, ".weight", "row 0, block 0", "not exactly MXFP4");
  EXPECT_FALSE(fs::exists(path("back") / "config.json"));
}

// Values that the record calls changed would come back as another model's, even where they are MXFP4.
TEST_F(Convert, ARecordOfRequantizedBlocksIsARefusal) {
  make_nvfp4();
  const Json good = parse_json(text_of(path("nvfp4") / "nibblecast.json"), "");
  const auto refusals = [&](const Json& record) {
    write_text_durably(system_files(), path("nvfp4") / "nibblecast.json", record.dump());
    std::vector<std::string> reasons;
    for (const Finding& finding : make_convert_plan(open("nvfp4")).findings)
      if (finding.severity == Severity::kRefusal) reasons.push_back(finding.reason);
    return reasons;
  };
  EXPECT_THAT(refusals(good), IsEmpty());
  const std::string weight = "layers.2.ffn.experts.1.w1.weight";
  Json record = good;
  record["outside_window"] = {{weight, 4}};
  EXPECT_THAT(refusals(record), ElementsAre(HasSubstr(weight)));
  record["source"]["shards"] = "none";  // of no use for the layout, but not for this
  EXPECT_THAT(refusals(record), ElementsAre(HasSubstr(weight)));
  record = good;
  record["relative_error"] = {{weight, 0.06}};
  EXPECT_THAT(refusals(record), ElementsAre(HasSubstr(weight)));
  record = good;
  record["blocks"]["outside_window"] = 4;
  EXPECT_THAT(refusals(record), ElementsAre(HasSubstr("4 of ")));
}

TEST_F(Convert, LostSignsOfZeroAreAWarning) {
  make_nvfp4({.negative_zero = NegativeZero::kModelOpt});
  const Plan plan = make_convert_plan(open("nvfp4"));
  ASSERT_EQ(plan.findings.size(), 1u);
  EXPECT_EQ(plan.findings[0].severity, Severity::kWarning);
  EXPECT_THAT(plan.findings[0].reason, HasSubstr("--negative-zero modelopt"));
}

TEST_F(Convert, OneBlockThatDoesNotFitIsNamed) {
  make_nvfp4();
  edit_tensor(path("nvfp4"), "layers.2.ffn.experts.1.w3.weight_scale", 5, std::string(1, '\x31'));
  expect_error(
      ErrorKind::kRefused, [&] { convert(); }, "layers.2.ffn.experts.1.w3.weight", "block 2 of 32",
      "halves differ");
}

TEST_F(Convert, RefusesByNameWhatNoReleaseHas) {
  const auto nvfp4 = [](const std::string& module, uint64_t bytes) -> std::vector<StoredTensor> {
    return {{module + ".weight", Dtype::kU8, {4, bytes}},
            {module + ".weight_scale", Dtype::kF8E4M3, {4, bytes / 8}},
            {module + ".weight_scale_2", Dtype::kF32, {}}};
  };
  const auto refuse = [&](ErrorKind kind, const std::vector<StoredTensor>& tensors, const std::string& part) {
    fs::remove_all(path("nvfp4"));
    write_checkpoint(path("nvfp4"), tensors);
    expect_error(
        kind, [&] { make_convert_plan(open("nvfp4")); }, part);
  };
  refuse(ErrorKind::kUnsupported, nvfp4("layers.0.attn.wq_a", 16), "layers.0.attn.wq_a.weight");
  refuse(ErrorKind::kUnsupported, nvfp4("layers.0.ffn.experts.0.w1", 24), "no whole blocks of MXFP4");
  refuse(ErrorKind::kBadInput, {{"norm.weight", Dtype::kBF16, {4}}}, "holds no NVFP4 weights");
}

}  // namespace
}  // namespace nibblecast
