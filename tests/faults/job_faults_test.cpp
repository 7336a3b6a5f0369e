// A whole job, made to fail at each of its file operations.
#include <algorithm>
#include <cctype>
#include <cstdio>

#include "faults/every_fault.h"
#include "pipeline/pipeline_testing.h"
#include "plan/convert.h"
#include "plan/dequantize.h"

namespace nibblecast::testing {
namespace {

const std::filesystem::path kSource = "/memory/source", kNvfp4 = "/memory/nvfp4",
                            kDestination = "/memory/output";

const std::vector<Failure> kAllFailures = {Failure::kEio,     Failure::kEnospc, Failure::kEdquot,
                                           Failure::kOneByte, Failure::kHalf,   Failure::kVanished,
                                           Failure::kCrash};

// Times differ between two runs.
FolderContents without_times(FolderContents contents) {
  std::erase_if(contents, [](const auto& file) { return file.first.starts_with(".nibblecast"); });
  const auto record = contents.find("nibblecast.json");
  if (record != contents.end()) {
    // What a power cut left of it need not be JSON.
    Json document = Json::parse(record->second, nullptr, false);
    if (!document.is_object()) return contents;
    for (const char* field : {"finished", "seconds", "attempts", "bytes"}) document.erase(field);
    record->second = document.dump();
  }
  return contents;
}

// Two layers of four experts: few enough operations to fail at each.
const MemoryFiles& source_machine() {
  static MemoryFiles* const files = [] {
    auto* made = new MemoryFiles();
    synthesize(preset_config("v4-tiny"), "v4-tiny", {.layers = LayerRange{0, 1}, .experts = 4}, kSource,
               *made);
    made->sync_all();
    return made;
  }();
  return *files;
}

std::unique_ptr<MemoryFiles> machine(NameLoss loss) {
  auto files = std::make_unique<MemoryFiles>(loss);
  files->share(source_machine(), kSource);
  return files;
}

// A job this small would be over before its first group of journal entries.
RunOptions committing_at_once() {
  RunOptions options = small_buffers();
  options.commit_interval = std::chrono::milliseconds(0);
  return options;
}

void run_with_amax(FileSystem& files) {
  const Checkpoint source = Checkpoint::open(kSource, files);
  const Plan plan = make_plan(source, {});
  const Activations amax = {.rows = {}, .amax = plain_amax(plan), .origin = "test", .identity = "amax"};
  run_job(source, plan, amax, kDestination, committing_at_once());
}

void run_with_rows(FileSystem& files) {
  const Checkpoint source = Checkpoint::open(kSource, files);
  const Plan plan = make_plan(source, {});
  const auto rows = tiny_rows(plan.model->vocabulary.size, 2, 16);
  run_job(source, plan, Activations::from_rows(rows, "test"), kDestination, committing_at_once());
}

Job job_of(void (*run)(FileSystem&)) { return {machine, run, kDestination, without_times}; }

// The same source with its shards in a folder of their own, so that names in two folders must become durable.
std::unique_ptr<MemoryFiles> machine_with_subfolder(NameLoss loss) {
  static MemoryFiles* const source = [] {
    auto* made = new MemoryFiles();
    synthesize(preset_config("v4-tiny"), "v4-tiny", {.layers = LayerRange{0, 1}, .experts = 4}, kSource,
               *made);
    move_shards(*made, kSource, "weights");
    made->sync_all();
    return made;
  }();
  auto files = std::make_unique<MemoryFiles>(loss);
  files->share(*source, kSource);
  return files;
}

// ---- dequantize and convert ----

const Activations kNoActivations = {.rows = {}, .amax = {}, .origin = "", .identity = "none"};

void run_dequantize(FileSystem& files) {
  const Checkpoint source = Checkpoint::open(kSource, files);
  run_job(source, make_dequantize_plan(source, {}), kNoActivations, kDestination, committing_at_once());
}

// Stacked tensors, whose parts become durable one by one.
void run_dequantize_stacked(FileSystem& files) {
  const Checkpoint source = Checkpoint::open(kSource, files);
  const Plan plan = make_dequantize_plan(source, {.names = TensorNames::kTransformers});
  run_job(source, plan, kNoActivations, kDestination, committing_at_once());
}

// The cast of the source above, which can go back.
const MemoryFiles& nvfp4_machine() {
  static MemoryFiles* const files = [] {
    auto* made = new MemoryFiles();
    made->share(source_machine(), kSource);
    const Checkpoint source = Checkpoint::open(kSource, *made);
    const Plan plan = make_plan(source, {});
    const Activations amax = {.rows = {}, .amax = plain_amax(plan), .origin = "test", .identity = "amax"};
    run_job(source, plan, amax, kNvfp4);
    made->sync_all();
    return made;
  }();
  return *files;
}

void run_convert(FileSystem& files) {
  const Checkpoint source = Checkpoint::open(kNvfp4, files);
  run_job(source, make_convert_plan(source), kNoActivations, kDestination, committing_at_once());
}

Job convert_job() {
  const auto nvfp4 = [](NameLoss loss) {
    auto files = std::make_unique<MemoryFiles>(loss);
    files->share(nvfp4_machine(), kNvfp4);
    return files;
  };
  return {nvfp4, run_convert, kDestination, without_times};
}

// Each of these stands for a way in which a call ends; the cast above goes through all of them.
const std::vector<Failure> kFewFailures = {Failure::kEio, Failure::kEnospc, Failure::kHalf, Failure::kCrash};

void expect_no_problem(const FaultReport& report) {
  std::fputs(report.text().c_str(), stdout);
  EXPECT_GT(report.total(), 0u);
  EXPECT_TRUE(report.problems.empty()) << report.text();
}

TEST(JobFaults, EveryFaultOfACast) {
  expect_no_problem(inject_every_fault(job_of(run_with_amax), kAllFailures));
}

TEST(JobFaults, EveryFaultOfACalibration) {
  expect_no_problem(inject_every_fault(job_of(run_with_rows), kAllFailures));
}

TEST(JobFaults, EveryPowerCutOfACast) { expect_no_problem(cut_power_everywhere(job_of(run_with_amax), 2)); }

TEST(JobFaults, EveryPowerCutWithShardsInAFolder) {
  expect_no_problem(
      cut_power_everywhere({machine_with_subfolder, run_with_amax, kDestination, without_times}, 1));
}

TEST(JobFaults, EveryPowerCutOfACalibration) {
  expect_no_problem(cut_power_everywhere(job_of(run_with_rows), 1));
}

TEST(JobFaults, CrashesDuringResume) { expect_no_problem(crash_twice(job_of(run_with_amax), 2, 3)); }

TEST(JobFaults, PowerCutsDuringResume) { expect_no_problem(crash_twice(job_of(run_with_amax), 2, 2, 1)); }

TEST(JobFaults, EveryFaultOfADequantize) {
  expect_no_problem(inject_every_fault(job_of(run_dequantize), kFewFailures));
}

TEST(JobFaults, EveryPowerCutOfADequantize) {
  expect_no_problem(cut_power_everywhere(job_of(run_dequantize_stacked), 1));
}

TEST(JobFaults, CrashesDuringResumeOfADequantize) {
  expect_no_problem(crash_twice(job_of(run_dequantize), 1, 1));
}

TEST(JobFaults, EveryFaultOfAConvert) { expect_no_problem(inject_every_fault(convert_job(), kFewFailures)); }

TEST(JobFaults, EveryPowerCutOfAConvert) { expect_no_problem(cut_power_everywhere(convert_job(), 1)); }

TEST(JobFaults, CrashesDuringResumeOfAConvert) { expect_no_problem(crash_twice(convert_job(), 1, 1)); }

// ---- what happens to the shards between two runs ----

// The durable tensor that stands last in its shard, of the shard that holds most of them.
struct Victim {
  std::filesystem::path path;
  Tensor tensor;
  uint64_t shard_bytes = 0;
};

using PlanMaker = std::function<Plan(const Checkpoint&)>;

std::optional<Victim> victim_in(MemoryFiles& files, const PlanMaker& make) {
  const Plan plan = make(Checkpoint::open(kSource, files));
  const auto job = read_job(files, kDestination / kJobFolder);
  std::map<uint32_t, std::vector<uint32_t>> durable;  // shard -> tensors
  if (job) {
    for (const auto& [tensor, is] : job->state.tensors)
      durable[plan.tensors[tensor].out.shard].push_back(tensor);
  }
  const auto count = [](const auto& shard) { return shard.second.size(); };
  const auto most = std::ranges::max_element(durable, {}, count);
  if (most == durable.end()) return std::nullopt;
  const auto offset = [&](uint32_t tensor) { return plan.tensors[tensor].out.offset; };
  const PlannedShard& shard = plan.shards[most->first];
  return Victim{kDestination / (shard.name + ".partial"),
                plan.tensors[*std::ranges::max_element(most->second, {}, offset)].out, shard.size_bytes};
}

void write(MemoryFiles& files, const std::filesystem::path& path, Access access, uint64_t offset,
           const std::string& bytes) {
  files.open(path, access)->write(offset, std::as_bytes(std::span(bytes)));
}

std::filesystem::path last_name(const Victim& victim) {
  return std::filesystem::path(victim.path).replace_extension();
}

// A name and a size are all that some of these leave of a shard.
struct ShardHarm {
  const char* name;
  void (*strike)(MemoryFiles&, const Victim&);
};
const ShardHarm kHarms[] = {
    {"gone", [](MemoryFiles& files, const Victim& victim) { files.remove(victim.path); }},
    {"cut",
     [](MemoryFiles& files, const Victim& victim) {
       files.open(victim.path, Access::kUpdateDirect)->set_size(victim.shard_bytes / 2);
     }},
    {"longer",
     [](MemoryFiles& files, const Victim& victim) {
       files.open(victim.path, Access::kUpdateDirect)->set_size(victim.shard_bytes + 1);
     }},
    {"cut and grown again",
     [](MemoryFiles& files, const Victim& victim) {
       files.open(victim.path, Access::kUpdateDirect)->set_size(victim.tensor.offset);
       files.open(victim.path, Access::kUpdateDirect)->set_size(victim.shard_bytes);
     }},
    {"another file",
     [](MemoryFiles& files, const Victim& victim) {
       write(files, victim.path, Access::kCreate, 0, std::string(victim.shard_bytes, 'x'));
     }},
    {"a tensor overwritten",
     [](MemoryFiles& files, const Victim& victim) {
       const std::string bytes(victim.tensor.size_bytes, 'y');
       write(files, victim.path, Access::kUpdateDirect, victim.tensor.offset, bytes);
     }},
    {"another file under its last name",
     [](MemoryFiles& files, const Victim& victim) {
       write(files, last_name(victim), Access::kCreate, 0, std::string(victim.shard_bytes, 'z'));
     }},
    {"renamed, as at the end",
     [](MemoryFiles& files, const Victim& victim) { files.rename(victim.path, last_name(victim)); }},
};

Harm harm_of(const ShardHarm& harm, const PlanMaker& make) {
  return {harm.name, [&harm, make](MemoryFiles& files) {
            if (const auto victim = victim_in(files, make)) harm.strike(files, *victim);
          }};
}

Plan cast_plan(const Checkpoint& source) { return make_plan(source, {}); }
Plan wide_plan(const Checkpoint& source) { return make_dequantize_plan(source, {}); }

class HarmedShard : public ::testing::TestWithParam<ShardHarm> {};

TEST_P(HarmedShard, CrashesOfTheResumedRun) {
  expect_no_problem(crash_after_harm(job_of(run_with_amax), 70, {harm_of(GetParam(), cast_plan)}));
}

TEST_P(HarmedShard, PowerCutsOfTheResumedRun) {
  expect_no_problem(crash_after_harm(job_of(run_with_amax), 70, {harm_of(GetParam(), cast_plan)}, 1));
}

INSTANTIATE_TEST_SUITE_P(JobFaults, HarmedShard, ::testing::ValuesIn(kHarms), [](const auto& param) {
  std::string name = param.param.name;
  std::erase_if(name, [](char letter) { return std::isalnum(static_cast<unsigned char>(letter)) == 0; });
  return name;
});

TEST(JobFaults, CrashesAfterAnotherFileInAShardsPlaceOfACalibration) {
  expect_no_problem(crash_after_harm(job_of(run_with_rows), 80, {harm_of(kHarms[4], cast_plan)}));
}

TEST(JobFaults, PowerCutsAfterACutShardOfADequantize) {
  expect_no_problem(crash_after_harm(job_of(run_dequantize), 70, {harm_of(kHarms[1], wide_plan)}, 3));
}

}  // namespace
}  // namespace nibblecast::testing
