// A whole job, made to fail at each of its file operations.
#include <algorithm>
#include <cctype>
#include <cstdio>

#include "faults/every_fault.h"
#include "faults/timed_fields.h"
#include "pipeline/pipeline_testing.h"
#include "pipeline/small_models.h"
#include "plan/convert.h"
#include "plan/dequantize.h"

namespace nibblecast::testing {
namespace {

const std::filesystem::path kSource = "/memory/source", kNvfp4 = "/memory/nvfp4",
                            kDestination = "/memory/output";

using PlanMaker = std::function<Plan(const Checkpoint&)>;

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
    for (const char* field : kTimedFields) document.erase(field);
    record->second = document.dump();
  }
  return contents;
}

// A job this small would be over before its first group of journal entries.
RunOptions committing_at_once() {
  RunOptions options = small_buffers();
  options.commit_interval = std::chrono::milliseconds(0);
  return options;
}

using MachineMaker = std::function<std::unique_ptr<MemoryFiles>(NameLoss)>;

// Machines with `folder` as `fill` makes it, once.
MachineMaker machine_with(const std::filesystem::path& folder,
                          const std::function<void(MemoryFiles&)>& fill) {
  const auto made = std::make_shared<MemoryFiles>();
  fill(*made);
  made->sync_all();
  return [made, folder](NameLoss loss) {
    auto files = std::make_unique<MemoryFiles>(loss);
    files->share(*made, folder);
    return files;
  };
}

Activations plain_activations(const Plan& plan) {
  return {.rows = {}, .amax = plain_amax(plan), .origin = "test", .identity = "amax"};
}

Job job_over(const SmallModel& model, std::function<void(FileSystem&)> run) {
  const auto machine = machine_with(kSource, [&](MemoryFiles& files) { model.make(kSource, files); });
  return {machine, std::move(run), kDestination, without_times};
}

std::function<void(FileSystem&)> run_with_amax(const QuantizeOptions& how) {
  return [how](FileSystem& files) {
    const Checkpoint source = Checkpoint::open(kSource, files);
    const Plan plan = make_plan(source, how);
    run_job(source, plan, plain_activations(plan), kDestination, committing_at_once());
  };
}

Job cast_job(const SmallModel& model) { return job_over(model, run_with_amax(model.options())); }

Job calibration_job(const SmallModel& model) {
  return job_over(model, [how = model.options()](FileSystem& files) {
    const Checkpoint source = Checkpoint::open(kSource, files);
    const Plan plan = make_plan(source, how);
    const auto rows = tiny_rows(plan.model->vocabulary.size, 2, 16);
    run_job(source, plan, Activations::from_rows(rows, "test"), kDestination, committing_at_once());
  });
}

// With the shards in a folder of their own, so that names in two folders must become durable.
Job subfolder_job(const SmallModel& model) {
  const auto machine = machine_with(kSource, [&](MemoryFiles& files) {
    model.make(kSource, files);
    move_shards(files, kSource, "weights");
  });
  return {machine, run_with_amax(model.options()), kDestination, without_times};
}

// ---- dequantize and convert ----

Job remake_job(MachineMaker machine, const std::filesystem::path& folder, const PlanMaker& make) {
  const auto run = [folder, make](FileSystem& files) {
    const Checkpoint source = Checkpoint::open(folder, files);
    run_job(source, make(source), kNoActivations, kDestination, committing_at_once());
  };
  return {std::move(machine), run, kDestination, without_times};
}

Plan wide_plan(const Checkpoint& source) { return make_dequantize_plan(source, {}); }

// Stacked tensors, whose parts become durable one by one.
Plan stacked_plan(const Checkpoint& source) {
  return make_dequantize_plan(source, {.names = TensorNames::kTransformers});
}

// Of the release, whose weights are packed.
Job dequantize_job(const SmallModel& model, const PlanMaker& make) {
  const auto machine = machine_with(kSource, [&](MemoryFiles& files) { model.make(kSource, files); });
  return remake_job(machine, kSource, make);
}

// Of what quantize has made of it.
Job remake_of_nvfp4_job(const SmallModel& model, const PlanMaker& make) {
  const auto machine = machine_with(kNvfp4, [&](MemoryFiles& files) {
    model.make(kSource, files);
    const Checkpoint source = Checkpoint::open(kSource, files);
    const Plan plan = make_plan(source, model.options());
    run_job(source, plan, plain_activations(plan), kNvfp4);
  });
  return remake_job(machine, kNvfp4, make);
}

// ---- every model ----

void expect_no_problem(const FaultReport& report) {
  std::fputs(report.text().c_str(), stdout);
  EXPECT_GT(report.total(), 0u);
  EXPECT_TRUE(report.problems.empty()) << report.text();
}

// Each of these stands for a way in which a call ends.
const std::vector<Failure> kFewFailures = {Failure::kEio, Failure::kEnospc, Failure::kHalf, Failure::kCrash};

// DeepSeek-V4 goes through more than the others: what the program does with its files is the same for all.
struct Extent {
  std::vector<Failure> failures;
  uint64_t samples, last;  // of crash_twice()
  uint64_t percent;        // of a first run, before its shards get their names at the end
};
Extent extent_of(const SmallModel& model) {
  return model.name == "v4" ? Extent{kAllFailures, 2, 3, 70} : Extent{kFewFailures, 1, 2, 50};
}

class JobFaults : public ::testing::TestWithParam<SmallModel> {
 protected:
  const Extent extent_ = extent_of(GetParam());
};

TEST_P(JobFaults, EveryFaultOfACast) {
  expect_no_problem(inject_every_fault(cast_job(GetParam()), extent_.failures));
}

TEST_P(JobFaults, EveryFaultOfACalibration) {
  expect_no_problem(inject_every_fault(calibration_job(GetParam()), extent_.failures));
}

TEST_P(JobFaults, EveryPowerCutOfACast) { expect_no_problem(cut_power_everywhere(cast_job(GetParam()), 2)); }

TEST_P(JobFaults, EveryPowerCutOfACalibration) {
  expect_no_problem(cut_power_everywhere(calibration_job(GetParam()), 1));
}

TEST_P(JobFaults, CrashesDuringResume) {
  expect_no_problem(crash_twice(cast_job(GetParam()), extent_.samples, extent_.last));
}

TEST_P(JobFaults, PowerCutsDuringResume) {
  expect_no_problem(crash_twice(cast_job(GetParam()), extent_.samples, 2, 1));
}

TEST_P(JobFaults, EveryFaultOfADequantizeOfItsOutput) {
  expect_no_problem(inject_every_fault(remake_of_nvfp4_job(GetParam(), wide_plan), kFewFailures));
}

// ---- what DeepSeek-V4 alone has ----

TEST(JobFaultsOfV4, EveryPowerCutWithShardsInAFolder) {
  expect_no_problem(cut_power_everywhere(subfolder_job(smallest(small_v4())), 1));
}

TEST(JobFaultsOfV4, EveryFaultOfADequantize) {
  expect_no_problem(inject_every_fault(dequantize_job(smallest(small_v4()), wide_plan), kFewFailures));
}

TEST(JobFaultsOfV4, EveryPowerCutOfADequantize) {
  expect_no_problem(cut_power_everywhere(dequantize_job(smallest(small_v4()), stacked_plan), 1));
}

TEST(JobFaultsOfV4, CrashesDuringResumeOfADequantize) {
  expect_no_problem(crash_twice(dequantize_job(smallest(small_v4()), wide_plan), 1, 1));
}

Job convert_job() { return remake_of_nvfp4_job(smallest(small_v4()), make_convert_plan); }

TEST(JobFaultsOfV4, EveryFaultOfAConvert) {
  expect_no_problem(inject_every_fault(convert_job(), kFewFailures));
}

TEST(JobFaultsOfV4, EveryPowerCutOfAConvert) { expect_no_problem(cut_power_everywhere(convert_job(), 1)); }

TEST(JobFaultsOfV4, CrashesDuringResumeOfAConvert) { expect_no_problem(crash_twice(convert_job(), 1, 1)); }

// ---- what happens to the shards between two runs ----

// The durable tensor that stands last in its shard, of the shard that holds most of them.
struct Victim {
  std::filesystem::path path;
  Tensor tensor;
  uint64_t shard_bytes = 0;
};

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
void PrintTo(const ShardHarm& harm, std::ostream* out) { *out << harm.name; }
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
  return {harm.name, [harm, make](MemoryFiles& files) {
            if (const auto victim = victim_in(files, make)) harm.strike(files, *victim);
          }};
}

PlanMaker cast_plan(const SmallModel& model) {
  return [how = model.options()](const Checkpoint& source) { return make_plan(source, how); };
}

class HarmedShard : public ::testing::TestWithParam<std::tuple<ShardHarm, SmallModel>> {
 protected:
  const SmallModel& model() const { return std::get<SmallModel>(GetParam()); }
  std::vector<Harm> harms() const { return {harm_of(std::get<ShardHarm>(GetParam()), cast_plan(model()))}; }
};

TEST_P(HarmedShard, CrashesOfTheResumedRun) {
  expect_no_problem(crash_after_harm(cast_job(model()), extent_of(model()).percent, harms()));
}

TEST_P(HarmedShard, PowerCutsOfTheResumedRun) {
  expect_no_problem(crash_after_harm(cast_job(model()), extent_of(model()).percent, harms(), 1));
}

std::string harm_name(const ::testing::TestParamInfo<HarmedShard::ParamType>& param) {
  std::string name = std::get<ShardHarm>(param.param).name;
  std::erase_if(name, [](char letter) { return std::isalnum(static_cast<unsigned char>(letter)) == 0; });
  return name + "_" + std::get<SmallModel>(param.param).name;
}

INSTANTIATE_TEST_SUITE_P(V4, HarmedShard,
                         ::testing::Combine(::testing::ValuesIn(kHarms),
                                            ::testing::Values(smallest(small_v4()))),
                         harm_name);
INSTANTIATE_TEST_SUITE_P(Others, HarmedShard,
                         ::testing::Combine(::testing::Values(kHarms[0], kHarms[3], kHarms[5], kHarms[7]),
                                            ::testing::Values(smallest(small_dense()),
                                                              smallest(small_moe()))),
                         harm_name);

TEST_P(JobFaults, CrashesAfterAnotherFileInAShardsPlaceOfACalibration) {
  const Harm harm = harm_of(kHarms[4], cast_plan(GetParam()));
  expect_no_problem(crash_after_harm(calibration_job(GetParam()), extent_.percent, {harm}));
}

INSTANTIATE_TEST_SUITE_P(Models, JobFaults,
                         ::testing::Values(smallest(small_v4()), smallest(small_dense()),
                                           smallest(small_moe())),
                         model_name);

TEST(JobFaultsOfV4, PowerCutsAfterACutShardOfADequantize) {
  const Harm harm = harm_of(kHarms[1], wide_plan);
  expect_no_problem(crash_after_harm(dequantize_job(smallest(small_v4()), wide_plan), 70, {harm}, 3));
}

}  // namespace
}  // namespace nibblecast::testing
