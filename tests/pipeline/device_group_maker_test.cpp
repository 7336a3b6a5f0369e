// Groups of NVFP4 weights made on a device: what the CPU makes of them, to the byte, and the same errors.
#include "pipeline/device_group_maker.h"

#include <algorithm>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"
#include "cuda_testing.h"
#include "faults/memory_files.h"
#include "pipeline_testing.h"

namespace nibblecast {
namespace {

using testing::MemoryFiles;

constexpr const char* kEveryLinear = R"(
rules:
  - modules: "layers.*"
    format: nvfp4
    quantize_input: false
  - modules: ["*.ffn.gate", "*.attn.wo_a"]
    format: keep
)";

// Members of a group that other code makes, and every method in one plan.
constexpr const char* kMixed = R"(
rules:
  - modules: "layers.*"
    format: nvfp4
    weight_method: max
    quantize_input: false
  - modules: ["*.ffn.gate", "*.attn.wo_a"]
    format: keep
  - modules: [layers.0.attn.wq_a, layers.1.attn.wkv]
    format: fp8
    quantize_input: false
  - modules: layers.1.ffn.experts.*
    format: bf16
  - modules: layers.2.ffn.experts.*
    format: nvfp4
    weight_method: mse
    quantize_input: false
  - modules: layers.3.ffn.experts.*
    format: nvfp4
    weight_method: four_over_six
    quantize_input: false
)";

// A group's stored bytes in memory, and room for what is made of them.
class GroupInMemory {
 public:
  GroupInMemory(const Checkpoint& source, const Plan& plan, const PlannedGroup& group) {
    TensorReader reader(source);
    const auto room = [&](uint32_t tensor) -> std::span<std::byte> {
      if (tensor == kNone) return {};
      return buffers_.emplace_back(plan.tensors[tensor].out.size_bytes, std::byte{0xcd});
    };
    for (const PlannedLinear& linear : group.linears) {
      std::vector<std::span<const std::byte>> parts;
      linear.source.for_parts([&](const Slice& part) {
        const std::span<std::byte> bytes = buffers_.emplace_back(reader.read(source.tensors()[part.tensor]));
        if (parts.empty()) stored.push_back(bytes);
        parts.push_back(bytes);
      });
      tasks.push_back({.linear = &linear,
                       .source = linear.source.view(linear.source.format.rows, parts),
                       .first_row = 0,
                       .weight = room(linear.weight),
                       .block_scale = room(linear.block_scale)});
    }
  }

  std::vector<LinearTask> tasks;
  std::vector<std::span<std::byte>> stored;  // of each task's weight

 private:
  std::list<std::vector<std::byte>> buffers_;
};

bool are_equal(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
}

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

class DeviceGroupMakerTest : public ::testing::Test {
 protected:
  void make_source(bool fp8_experts) {
    files_.remove("/source");
    synthesize(preset_config("v4-tiny"), "v4-tiny", {.experts = 3, .fp8_experts = fp8_experts}, "/source",
               files_);
    source_.emplace(Checkpoint::open("/source", files_));
  }

  Plan plan_of(const char* recipe, std::optional<RecipeMethod> method) {
    files_.open("/recipe.yaml", Access::kCreate)
        ->write(0, std::as_bytes(std::span(std::string_view(recipe))));
    QuantizeOptions options;
    options.recipe = "/recipe.yaml";
    options.weight_method = method;
    options.engines = {};
    return make_plan(*source_, options);
  }

  // Compares all groups, and returns how many of their linears became NVFP4 by each method.
  std::map<WeightMethod, size_t> expect_same_groups(const Plan& plan, uint64_t values_bytes) {
    DeviceGroupMaker device(*source_, plan, values_bytes);
    std::map<WeightMethod, size_t> made;
    for (const Stage& stage : plan.stages) {
      for (const PlannedGroup& group : stage.groups) {
        expect_same_group(plan, group, device);
        for (const PlannedLinear& linear : group.linears)
          made[linear.method] += plan.tensors[linear.weight].make == Make::kNvfp4Weight;
      }
    }
    return made;
  }

  void expect_same_group(const Plan& plan, const PlannedGroup& group, DeviceGroupMaker& device) {
    const GroupInMemory expected(*source_, plan, group), found(*source_, plan, group);
    const auto by_cpu = make_group(*source_, plan, expected.tasks);
    const auto by_device = make_group(*source_, plan, found.tasks, Kernels::kFast, &device);
    ASSERT_EQ(by_cpu.size(), by_device.size());
    for (size_t i = 0; i < by_cpu.size(); ++i) {
      SCOPED_TRACE(plan.tensors[group.linears[i].weight].out.name);
      EXPECT_TRUE(are_equal(expected.tasks[i].weight, found.tasks[i].weight));
      EXPECT_TRUE(are_equal(expected.tasks[i].block_scale, found.tasks[i].block_scale));
      EXPECT_EQ(by_cpu[i].weight_scale, by_device[i].weight_scale);
      EXPECT_EQ(by_cpu[i].counts.loss, by_device[i].counts.loss);
      EXPECT_EQ(by_cpu[i].counts.inexact, by_device[i].counts.inexact);
    }
  }

  MemoryFiles files_;
  std::optional<Checkpoint> source_;
};

TEST_F(DeviceGroupMakerTest, MakesWhatTheCpuMakesByEveryMethod) {
  SKIP_WITHOUT_CUDA();
  for (const bool fp8_experts : {false, true}) {
    make_source(fp8_experts);
    for (const RecipeMethod method : {RecipeMethod::kMax, RecipeMethod::kMse, RecipeMethod::kFourOverSix}) {
      SCOPED_TRACE(recipe_method_name(method));
      const auto made = expect_same_groups(plan_of(kEveryLinear, method), kDeviceValuesBytes);
      EXPECT_GT(made.at(requantize_method(method)), 50u);
    }
  }
}

TEST_F(DeviceGroupMakerTest, LeavesOtherMakesToTheCpu) {
  SKIP_WITHOUT_CUDA();
  make_source(false);
  const auto made = expect_same_groups(plan_of(kMixed, {}), kDeviceValuesBytes);
  for (const WeightMethod method : {WeightMethod::kMax, WeightMethod::kMse, WeightMethod::kFourOverSix})
    EXPECT_GT(made.at(method), 0u);
}

TEST_F(DeviceGroupMakerTest, BytesDoNotDependOnTheRowsMadeAtOnce) {
  SKIP_WITHOUT_CUDA();
  make_source(false);
  const Plan plan = plan_of(kEveryLinear, RecipeMethod::kFourOverSix);
  for (const uint64_t values_bytes : {1, 20'000, 100'000}) expect_same_groups(plan, values_bytes);
}

TEST_F(DeviceGroupMakerTest, AllocatesWhatItsCostSays) {
  SKIP_WITHOUT_CUDA();
  make_source(false);
  const Plan plan = plan_of(kEveryLinear, RecipeMethod::kMax);
  const DeviceMakeCost cost = device_make_cost(plan);
  EXPECT_GT(cost.device_bytes, plan.largest_source_bytes + plan.largest_made_bytes);
  EXPECT_GT(cost.pinned_bytes, 0u);
  EXPECT_LT(device_make_cost(plan, 1).device_bytes, cost.device_bytes);
  const Plan nothing = plan_of("rules: []", {});
  EXPECT_EQ(device_make_cost(nothing).device_bytes, 0u);
}

TEST_F(DeviceGroupMakerTest, RefusesAValueThatIsNotFiniteAsTheCpuDoes) {
  SKIP_WITHOUT_CUDA();
  make_source(true);
  const Plan plan = plan_of(kEveryLinear, RecipeMethod::kMax);
  DeviceGroupMaker device(*source_, plan, 20'000);
  for (const Stage& stage : plan.stages) {
    for (const PlannedGroup& group : stage.groups) {
      GroupInMemory memory(*source_, plan, group);
      const LinearTask& task = memory.tasks.back();
      if (!std::holds_alternative<Fp8BlockView>(task.source)) continue;
      const size_t rows = rows_of(task.source), cols = cols_of(task.source);
      const std::span<std::byte> codes = memory.stored.back();
      for (const size_t position : {rows * cols - 1, (rows - 1) * cols, cols + 3}) {
        codes[position] = std::byte{0x7f};
        const std::string by_cpu = message_of([&] { make_group(*source_, plan, memory.tasks); });
        EXPECT_EQ(message_of([&] { make_group(*source_, plan, memory.tasks, Kernels::kFast, &device); }),
                  by_cpu);
        EXPECT_NE(by_cpu.find("row " + std::to_string(position / cols) + ", column " +
                              std::to_string(position % cols)),
                  std::string::npos)
            << by_cpu;
        codes[position] = std::byte{0x30};
      }
      expect_same_group(plan, group, device);
    }
  }
}

}  // namespace
}  // namespace nibblecast
