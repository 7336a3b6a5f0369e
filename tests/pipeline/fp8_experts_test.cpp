// A release's MXFP4 experts, published again as FP8: what is made of them is what is made of the release.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "formats/nvfp4.h"
#include "pipeline/group_maker.h"
#include "pipeline/group_parts.h"
#include "pipeline/verify.h"
#include "plan/convert.h"
#include "plan/cost.h"
#include "stored_checkpoint.h"

namespace nibblecast {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using testing::edit_tensor;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::run_job;
using testing::small_buffers;
using testing::StoredTensor;
using testing::TemporaryFolder;
using testing::tensor_bytes;
using testing::write_checkpoint;

bool is_expert(const std::string& name) { return name.find(".ffn.experts.") != std::string::npos; }
bool is_drafts(const std::string& name) { return name.starts_with("mtp."); }

// How an FP8 release stores scales.
struct Scales {
  const char* name;
  Dtype dtype;
  uint64_t tile_rows, tile_cols;
};
constexpr Scales kE8m0 = {"scale", Dtype::kF8E8M0, 128, 128};

std::string power_of_two(Dtype dtype, int exponent) {
  const float scale = std::ldexp(1.0f, exponent);
  if (dtype == Dtype::kF32) return testing::bytes_of<float>({scale});
  if (dtype == Dtype::kBF16) return testing::bytes_of<bf16>({to_bf16(scale)});
  return std::string(1, static_cast<char>(exponent + 127));
}

// As DeepSeek's inference/convert.py: a tile's scale is that of its largest block over 2^6.
class Fp8Expert {
 public:
  Fp8Expert(const Shape& packed, const std::string& codes, const std::string& scales, const Scales& form)
      : rows_(packed[0]), cols_(packed[1] * 2), codes_(codes), scales_(scales), form_(form) {}

  std::vector<StoredTensor> tensors(const std::string& module) const {
    std::string codes(rows_ * cols_, '\0'), scales;
    const uint64_t down = (rows_ + form_.tile_rows - 1) / form_.tile_rows,
                   across = (cols_ + form_.tile_cols - 1) / form_.tile_cols;
    std::vector<int> exponents;
    for (uint64_t tile = 0; tile < down * across; ++tile) {
      exponents.push_back(exponent_of(tile / across, tile % across));
      scales += power_of_two(form_.dtype, exponents.back());
    }
    for (uint64_t row = 0; row < rows_; ++row) {
      for (uint64_t col = 0; col < cols_; ++col) {
        const uint64_t tile = row / form_.tile_rows * across + col / form_.tile_cols;
        codes[row * cols_ + col] =
            static_cast<char>(e4m3(nibble(row, col), exponent(row, col) - exponents[tile]));
      }
    }
    return {{module + ".weight", Dtype::kF8E4M3, {rows_, cols_}, codes},
            {module + "." + form_.name, form_.dtype, {down, across}, scales}};
  }

 private:
  uint8_t nibble(uint64_t row, uint64_t col) const {
    const auto byte = static_cast<uint8_t>(codes_[(row * cols_ + col) / 2]);
    return static_cast<uint8_t>(col % 2 == 0 ? byte & 15 : byte >> 4);
  }
  int exponent(uint64_t row, uint64_t col) const {
    return static_cast<uint8_t>(scales_[(row * cols_ + col) / 32]) - 127;
  }
  int exponent_of(uint64_t tile_row, uint64_t tile_col) const {
    int most = -120;
    for (uint64_t row = tile_row * form_.tile_rows; row < std::min(rows_, (tile_row + 1) * form_.tile_rows);
         ++row) {
      for (uint64_t col = tile_col * form_.tile_cols; col < std::min(cols_, (tile_col + 1) * form_.tile_cols);
           ++col)
        most = std::max(most, exponent(row, col));
    }
    return most - 6;
  }
  static uint8_t e4m3(uint8_t code, int shift) {
    const float magnitude = std::fabs(decode_e2m1(code));
    return static_cast<uint8_t>(encode_e4m3(magnitude == 0 ? 0 : std::ldexp(magnitude, shift)) | (code & 8)
                                                                                                     << 4);
  }

  uint64_t rows_, cols_;
  const std::string &codes_, &scales_;
  Scales form_;
};

// Of synth's random blocks one in thousands could have another scale too: 6 and 0.5 in each leave only one.
void mark_blocks(std::string& codes) {
  for (size_t block = 0; block < codes.size(); block += 16) {
    if (codes.substr(block, 16) != std::string(16, '\0')) codes[block] = 0x17;
  }
}

class Fp8Experts : public ::testing::Test {
 protected:
  // "mxfp4", and the same with FP8 experts in "fp8".
  void make_sources(const Scales& form = kE8m0) {
    fs::remove_all(folder_.path());
    fs::create_directories(folder_.path());
    synthesize(preset_config("v4-tiny"), "v4-tiny", {.experts = 4}, path("synth"), system_files());
    const Checkpoint synth = open("synth");
    std::vector<StoredTensor> mxfp4, fp8;
    for (const Tensor& tensor : synth.tensors()) {
      StoredTensor stored{tensor.name, tensor.dtype, tensor.shape, tensor_bytes(synth, tensor.name)};
      const bool is_ours = is_expert(tensor.name) && !is_drafts(tensor.name);
      if (is_ours && tensor.dtype == Dtype::kI8) {
        mark_blocks(stored.bytes);
        const std::string module = tensor.name.substr(0, tensor.name.rfind('.'));
        const std::string scales = tensor_bytes(synth, module + ".scale");
        for (StoredTensor& made : Fp8Expert(tensor.shape, stored.bytes, scales, form).tensors(module))
          fp8.push_back(std::move(made));
      } else if (!is_ours) {
        fp8.push_back(stored);
      }
      mxfp4.push_back(std::move(stored));
    }
    Json config = synth.config();
    write_checkpoint(path("mxfp4"), std::move(mxfp4), config);
    config.erase("expert_dtype");
    write_checkpoint(path("fp8"), std::move(fp8), config);
  }

  static QuantizeOptions options(std::optional<RecipeMethod> method = {}) {
    QuantizeOptions made;
    made.weight_method = method;
    made.input_scale = InputScalePolicy::kConstant;
    made.engines = {};
    return made;
  }

  RunRecord quantize(const std::string& source, const QuantizeOptions& with = options()) {
    const Checkpoint in = open(source);
    const Plan plan = make_plan(in, with);
    EXPECT_FALSE(plan.refused());
    fs::remove_all(path(source + "-out"));
    return run_job(in, plan, {}, path(source + "-out"));
  }

  // Names of tensors that the two outputs do not have alike.
  std::set<std::string> differences() const {
    const Checkpoint mxfp4 = open("mxfp4-out"), fp8 = open("fp8-out");
    EXPECT_EQ(mxfp4.tensors().size(), fp8.tensors().size());
    std::set<std::string> names;
    for (const Tensor& tensor : mxfp4.tensors()) {
      const Tensor* other = fp8.find(tensor.name);
      if (other == nullptr || other->dtype != tensor.dtype || other->shape != tensor.shape ||
          tensor_bytes(mxfp4, tensor.name) != tensor_bytes(fp8, tensor.name))
        names.insert(tensor.name);
    }
    return names;
  }

  VerifyReport check() const {
    return verify(open("fp8"), path("fp8-out"), system_files(), {.engines = std::set<Engine>()});
  }

  fs::path path(const std::string& name) const { return folder_.path() / name; }
  Checkpoint open(const std::string& name) const { return Checkpoint::open(path(name), system_files()); }

 private:
  TemporaryFolder folder_;
};

TEST_F(Fp8Experts, ThatAreExactlyMxfp4AreCastAsTheRelease) {
  for (const Scales& form :
       {kE8m0, Scales{"scale", Dtype::kF32, 128, 128}, Scales{"weight_scale_inv", Dtype::kBF16, 128, 128},
        Scales{"weight_scale", Dtype::kU8, 1, 32}}) {
    SCOPED_TRACE(std::string(form.name) + " " + std::string(dtype_name(form.dtype)));
    make_sources(form);
    const RunRecord release = quantize("mxfp4"), record = quantize("fp8");
    EXPECT_THAT(differences(), IsEmpty());
    EXPECT_EQ(record.blocks, release.blocks);
    EXPECT_GT(record.blocks.zero_blocks, 0u);
    EXPECT_THAT(record.losses, IsEmpty());
    const VerifyReport report = check();
    EXPECT_THAT(report.problems, IsEmpty());
    EXPECT_EQ(report.blocks, record.blocks.blocks);
    EXPECT_EQ(report.identical_blocks, record.blocks.blocks);
  }
}

TEST_F(Fp8Experts, NegativeZerosFollowThePolicyInTheCast) {
  make_sources();
  QuantizeOptions modelopt = options();
  modelopt.negative_zero = NegativeZero::kModelOpt;
  quantize("mxfp4", modelopt);
  quantize("fp8", modelopt);
  EXPECT_THAT(differences(), IsEmpty());
  EXPECT_THAT(check().problems, IsEmpty());
}

TEST_F(Fp8Experts, OfAShareWithOneOddBlockAllIsQuantized) {
  make_sources();
  const std::string expert = "layers.1.ffn.experts.2.";
  edit_tensor(path("fp8"), expert + "w3.weight", 1000, "\x3a");  // 1.25
  const RunRecord release = quantize("mxfp4"), record = quantize("fp8");
  const std::string w1 = expert + "w1.weight", w3 = expert + "w3.weight";
  EXPECT_EQ(differences(),
            (std::set<std::string>{w1, w1 + "_scale", w1 + "_scale_2", w3, w3 + "_scale", w3 + "_scale_2"}));
  ASSERT_EQ(record.losses.size(), 2u);
  EXPECT_GT(record.losses.at(w1).squared_error, 0);
  EXPECT_GT(record.losses.at(w3).squared_error, 0);
  const uint64_t blocks = *element_count(open("fp8").at(w1).shape) / 32;
  EXPECT_EQ(record.blocks.blocks, release.blocks.blocks - 2 * blocks);
  const VerifyReport report = check();
  EXPECT_THAT(report.problems, IsEmpty());
  EXPECT_EQ(report.blocks, record.blocks.blocks);

  const std::string card = read_text(system_files(), path("fp8-out") / "README.md", 1 << 20);
  EXPECT_THAT(
      card,
      HasSubstr("cast from FP8 that is exactly MXFP4, no value changed; quantized with the method `max`"));
  const Json json =
      parse_json(read_text(system_files(), path("fp8-out") / "nibblecast.json", 1 << 20), "record");
  EXPECT_EQ(json["relative_error"].size(), 2u);
  EXPECT_EQ(json["blocks"]["lossless"], record.blocks.blocks);
}

TEST_F(Fp8Experts, AScaleThatIsNoPowerOfTwoIsNoMxfp4) {
  make_sources({"scale", Dtype::kF32, 128, 128});
  edit_tensor(path("fp8"), "layers.0.ffn.experts.0.w2.scale", 0, testing::bytes_of<float>({0.01f}));
  const RunRecord record = quantize("fp8");
  ASSERT_EQ(record.losses.size(), 1u);
  EXPECT_EQ(record.losses.begin()->first, "layers.0.ffn.experts.0.w2.weight");
  EXPECT_THAT(check().problems, IsEmpty());
}

TEST_F(Fp8Experts, AreQuantizedWhereTheMethodIsAnother) {
  make_sources();
  EXPECT_THAT(make_plan(open("fp8"), options(RecipeMethod::kMax)).tried_casts(), IsEmpty());
  const RunRecord record = quantize("fp8", options(RecipeMethod::kMax));
  EXPECT_EQ(record.blocks.blocks, 0u);
  EXPECT_FALSE(record.losses.empty());
  EXPECT_THAT(check().problems, IsEmpty());
}

TEST_F(Fp8Experts, NoOtherWeightIsTried) {
  make_sources();
  QuantizeOptions all = options();
  all.recipe = "nvfp4";
  const Plan plan = make_plan(open("fp8"), all);
  const std::vector<uint32_t> tried = plan.tried_casts();
  EXPECT_EQ(tried.size(), plan.layers() * 4 * 3);
  for (const uint32_t weight : tried) EXPECT_TRUE(is_expert(plan.tensors[weight].out.name));
  EXPECT_THAT(make_plan(open("mxfp4"), all).tried_casts(), IsEmpty());
}

TEST_F(Fp8Experts, StoppedAnywhereAndResumedItIsTheSame) {
  struct Stop {};
  make_sources();
  edit_tensor(path("fp8"), "layers.1.ffn.experts.2.w2.weight", 1000, "\x3a");
  const RunRecord whole = quantize("fp8");
  const Checkpoint in = open("fp8");
  const Plan plan = make_plan(in, options());
  RunOptions with = small_buffers();
  with.commit_interval = std::chrono::milliseconds(1);
  RunRecord record;
  for (size_t attempts = 0; attempts < 200; ++attempts) {
    size_t left = 5 + 3 * attempts;  // an attempt gets further than the one before
    with.progress = [&](const Progress&) {
      if (left-- == 0) throw Stop();
    };
    try {
      record = run_job(in, plan, {}, path("stopped"), with);
      break;
    } catch (const Stop&) {
    }
  }
  auto expected = testing::folder_hashes(path("fp8-out")), found = testing::folder_hashes(path("stopped"));
  EXPECT_EQ(found, expected);
  EXPECT_EQ(record.blocks, whole.blocks);
  ASSERT_EQ(record.losses.size(), 1u);
  EXPECT_EQ(record.losses.begin()->first, whole.losses.begin()->first);
  EXPECT_EQ(record.losses.begin()->second, whole.losses.begin()->second);
}

TEST_F(Fp8Experts, DamageToACastWeightIsAProblemThatNamesIt) {
  make_sources();
  quantize("fp8");
  const std::string weight = "layers.0.ffn.experts.1.w2.weight",
                    scale = "layers.0.ffn.experts.3.w1.weight_scale";
  edit_tensor(path("fp8-out"), weight, 77, "\x55");
  edit_tensor(path("fp8-out"), scale, 5, "\x01");
  const VerifyReport report = check();
  EXPECT_THAT(report.problems, Contains(HasSubstr(weight + ": 1 of")));
  EXPECT_THAT(report.problems, Contains(HasSubstr("values are not the source's")));
  EXPECT_THAT(report.problems, Contains(HasSubstr(scale + ":")));
  EXPECT_EQ(report.identical_blocks, report.blocks - 2);
}

TEST_F(Fp8Experts, ConvertGivesTheReleasesExperts) {
  make_sources();
  quantize("fp8");
  const Checkpoint out = open("fp8-out");
  const Plan plan = make_convert_plan(out);
  EXPECT_FALSE(plan.refused());
  run_job(out, plan, {}, path("back"));
  const Checkpoint release = open("mxfp4"), back = open("back");
  for (const Tensor& tensor : release.tensors()) {
    EXPECT_TRUE(tensor_bytes(release, tensor.name) == tensor_bytes(back, tensor.name)) << tensor.name;
  }
}

TEST_F(Fp8Experts, MemoryForTheirScalesIsPlanned) {
  make_sources();
  const Checkpoint in = open("fp8");
  const auto make_bytes = [&](RecipeMethod method) {
    return memory_cost(in, make_plan(in, options(method)), {}, 2, 1 << 30).make_bytes;
  };
  const uint64_t of_expert = *element_count(in.at("layers.0.ffn.experts.0.w1.weight").shape) * 3 / 32;
  EXPECT_EQ(make_bytes(RecipeMethod::kCast), make_bytes(RecipeMethod::kMax) + of_expert);
}

// Stands for a device.
class NotingMaker : public Nvfp4Maker {
 public:
  void make(std::span<const LinearTask> tasks, std::span<MadeLinear> made) override {
    for (size_t i = 0; i < tasks.size(); ++i) {
      roles.push_back(tasks[i].linear->module->id.role);
      made[i].weight_scale = 77;
    }
  }
  std::vector<Role> roles;
};

TEST_F(Fp8Experts, ADeviceMakesOnlyWhatIsNotCast) {
  make_sources();
  edit_tensor(path("fp8"), "layers.0.ffn.experts.0.w2.weight", 0, "\x3a");
  const Checkpoint in = open("fp8");
  const Plan plan = make_plan(in, options());
  const PlannedGroup& group = plan.stages[1].groups[0];
  TensorReader reader(in);
  std::vector<std::vector<std::byte>> parts;
  for (const PlannedLinear& linear : group.linears)
    linear.source.for_parts(
        [&](const Slice& part) { parts.push_back(reader.read(in.tensors()[part.tensor])); });
  const std::vector<StoredLinear> views =
      group_views(in, group, 0, [&](size_t part) { return std::span<const std::byte>(parts[part]); });
  std::vector<std::vector<std::byte>> made_bytes;
  made_bytes.reserve(2 * views.size());
  std::vector<LinearTask> tasks;
  for (size_t i = 0; i < views.size(); ++i) {
    const PlannedLinear& linear = group.linears[i];
    auto& weight = made_bytes.emplace_back(plan.tensors[linear.weight].out.size_bytes);
    auto& scale = made_bytes.emplace_back(plan.tensors[linear.block_scale].out.size_bytes);
    tasks.push_back({.linear = &linear, .source = views[i], .weight = weight, .block_scale = scale});
  }
  NotingMaker device;
  const std::vector<MadeLinear> made = make_group(in, plan, tasks, Kernels::kFast, &device);
  EXPECT_THAT(device.roles, ElementsAre(Role::kDown));
  for (size_t i = 0; i < made.size(); ++i) {
    const bool is_down = group.linears[i].module->id.role == Role::kDown;
    EXPECT_EQ(made[i].weight_scale == 77, is_down);
    EXPECT_EQ(made[i].counts.blocks.blocks == 0, is_down);
  }
}

}  // namespace
}  // namespace nibblecast
