// A job that is stopped and goes on: what is done again, what is not, and whether the bytes are the same.
#include <algorithm>
#include <functional>

#include "base/error.h"
#include "faults/memory_files.h"
#include "pipeline/kept_shards.h"
#include "pipeline/saved_rows.h"
#include "pipeline/saved_streams.h"
#include "pipeline/verify_checksums.h"
#include "pipeline_testing.h"
#include "small_models.h"

namespace nibblecast {
namespace {

using testing::describe;
using testing::expect_error;
using testing::MemoryFiles;
using testing::run_job;
using testing::small_buffers;
using testing::smallest;
using testing::SmallModel;
using testing::tiny_rows;

struct Stop {};

class ResumeTest : public ::testing::TestWithParam<SmallModel> {
 protected:
  explicit ResumeTest(const SmallModel& model = GetParam()) {
    model.make("/source", files_);
    source_.emplace(Checkpoint::open("/source", files_));
    plan_ = make_plan(*source_, model.options());
    rows_ = Activations::from_rows(tiny_rows(plan_.model->vocabulary.size, 2, 32), "test");
    run_job(*source_, plan_, rows_, "/whole");
    expected_ = contents("/whole");
  }

  // nibblecast.json holds times.
  std::map<std::string, std::string> contents(const std::filesystem::path& folder) const {
    std::map<std::string, std::string> found = files_.contents(folder);
    found.erase("nibblecast.json");
    return found;
  }

  // `out_` as contents() had it.
  void restore(const std::map<std::string, std::string>& left) {
    files_.remove(out_);
    for (const auto& [path, bytes] : left) {
      files_.create_folders((out_ / path).parent_path());
      files_.open(out_ / path, Access::kCreate)->write(0, std::as_bytes(std::span(bytes)));
    }
  }

  void change_byte(const std::filesystem::path& path, uint64_t at) {
    const auto file = files_.open(path, Access::kUpdateDirect);
    std::byte byte;
    file->read(at, {&byte, 1});
    byte ^= std::byte{4};
    file->write(at, {&byte, 1});
  }

  // Every unit is committed at once, so that what a stop leaves does not depend on time.
  RunOptions options(uint64_t checkpoint_every = 1) const {
    RunOptions made = small_buffers();
    made.checkpoint_every = checkpoint_every;
    made.commit_interval = std::chrono::milliseconds(1);
    return made;
  }

  // Runs until progress was reported `steps` times; false if the run ended before.
  bool run_until(size_t steps, RunOptions options) {
    options.progress = [&](const Progress&) {
      if (steps-- == 0) throw Stop();
    };
    try {
      run_job(*source_, plan_, rows_, out_, options);
      return false;
    } catch (const Stop&) {
      return true;
    }
  }

  // How often a whole run reports progress.
  size_t steps_of_a_run() {
    size_t steps = 0;
    RunOptions counting = options();
    counting.progress = [&](const Progress&) { ++steps; };
    run_job(*source_, plan_, rows_, "/counted", counting);
    return steps;
  }

  // Stops in the first unit of layer `layer` in phase `phase`.
  void run_until(uint64_t layer, Phase phase, RunOptions options) {
    options.progress = [&](const Progress& progress) {
      if (progress.stage == "layer " + std::to_string(layer) && progress.phase == phase) throw Stop();
    };
    EXPECT_THROW(run_job(*source_, plan_, rows_, out_, options), Stop);
  }

  JobState state() { return read_job(files_, out_ / kJobFolder)->state; }
  std::filesystem::path job(const std::string& name) const { return out_ / kJobFolder / name; }

  RunRecord finish() {
    RunRecord record = run_job(*source_, plan_, rows_, out_, options());
    EXPECT_EQ(contents(out_), expected_);
    EXPECT_FALSE(files_.status(out_ / kJobFolder));
    return record;
  }

  MemoryFiles files_;
  const std::filesystem::path out_ = "/out";
  std::optional<Checkpoint> source_;
  Plan plan_;
  Activations rows_;
  std::map<std::string, std::string> expected_;
};

TEST_P(ResumeTest, StoppedAfterEveryStep) {
  for (size_t steps = 0; run_until(steps, options()); steps += 7) {
    const JobState left = state();
    EXPECT_EQ(left.tensors_made_twice, 0u);
    for (const auto& [layer, passes] : left.layer_passes) EXPECT_EQ(passes, 1u) << layer;
    finish();
    files_.remove(out_);
  }
}

TEST_P(ResumeTest, StoppedAgainAndAgain) {
  // Each attempt goes further than the one before: how often a layer reports depends on the time it takes.
  const size_t steps = std::max<size_t>(steps_of_a_run() / 10, 1);
  size_t attempts = 0;
  while (run_until(steps * (attempts + 1), options())) {
    ASSERT_LT(++attempts, 100u);
    const JobState left = state();
    EXPECT_EQ(left.attempts.size(), attempts);
    EXPECT_EQ(left.tensors_made_twice, 0u);
  }
  EXPECT_GT(attempts, 2u);
  EXPECT_EQ(contents(out_), expected_);
}

TEST_P(ResumeTest, TheForwardPassStartsAtTheSavedStreams) {
  run_until(3, Phase::kMake, options());
  EXPECT_EQ(state().streams->layer, 3u);
  EXPECT_TRUE(files_.status(job("streams-3")));
  EXPECT_FALSE(files_.status(job("streams-2")));
  const RunRecord record = finish();
  EXPECT_TRUE(record.notes.empty());
  EXPECT_LT(record.read_bytes, plan_.source_bytes);
}

TEST_P(ResumeTest, AtMostCheckpointEveryLayersAreComputedTwice) {
  run_until(3, Phase::kMake, options(2));
  EXPECT_EQ(state().streams->layer, 2u);
  run_until(4, Phase::kMake, options(2));
  for (const auto& [layer, passes] : state().layer_passes) EXPECT_EQ(passes, layer == 2 ? 2u : 1u) << layer;
  finish();
}

TEST_P(ResumeTest, DamagedStreamsStartTheForwardPassAgain) {
  run_until(3, Phase::kMake, options());
  change_byte(job("streams-3"), 100);
  const RunRecord record = finish();
  ASSERT_EQ(record.notes.size(), 1u);
  EXPECT_NE(record.notes[0].find("starts at layer 0 again"), std::string::npos) << record.notes[0];
}

TEST_P(ResumeTest, ALostShardIsMadeAgain) {
  run_until(4, Phase::kMake, options());
  const auto first = *state().tensors.begin();
  const std::string shard = plan_.shards[plan_.tensors[first.first].out.shard].name;
  files_.remove(out_ / (shard + ".partial"));
  const RunRecord record = finish();
  ASSERT_EQ(record.notes.size(), 1u);
  EXPECT_NE(record.notes[0].find(shard), std::string::npos) << record.notes[0];
}

// A file of the right name and size that is not the job's: of another run, a copy, zeros.
TEST_P(ResumeTest, AnotherFileInAShardsPlaceIsMadeAgain) {
  run_until(4, Phase::kMake, options());
  const auto first = *state().tensors.begin();
  const PlannedShard& shard = plan_.shards[plan_.tensors[first.first].out.shard];
  const std::string zeros(shard.size_bytes, '\0');
  files_.open(partial_path(out_, shard), Access::kCreate)->write(0, std::as_bytes(std::span(zeros)));
  const RunRecord record = finish();
  ASSERT_EQ(record.notes.size(), 1u);
  EXPECT_NE(record.notes[0].find(shard.name + ".partial is not as this job left it"), std::string::npos)
      << record.notes[0];
}

TEST_P(ResumeTest, OfADamagedShardOnlyWhatIsDamagedIsMadeAgain) {
  run_until(4, Phase::kMake, options());
  const auto first = *state().tensors.begin();
  const Tensor& tensor = plan_.tensors[first.first].out;
  change_byte(partial_path(out_, plan_.shards[tensor.shard]), tensor.offset);
  const RunRecord record = finish();
  ASSERT_EQ(record.notes.size(), 1u);
  EXPECT_NE(record.notes[0].find(" of its "), std::string::npos) << record.notes[0];
  EXPECT_LT(record.written_bytes, plan_.output_bytes / 2);
}

// A run that begins, and stops before anything is done; whether it read a shard back.
TEST_P(ResumeTest, AShardIsReadBackOnceAfterItWasWrittenTo) {
  const auto reads_back = [&] {
    bool read = false;
    RunOptions stopping = options();
    stopping.progress = [&](const Progress& progress) {
      if (progress.stage != "reading back what is there") throw Stop();
      read = true;
    };
    EXPECT_THROW(run_job(*source_, plan_, rows_, out_, stopping), Stop);
    return read;
  };
  run_until(4, Phase::kMake, options());
  reads_back();
  EXPECT_FALSE(reads_back());
  const std::string name = plan_.shards[0].name;
  files_.rename(out_ / (name + ".partial"), out_ / name);  // as a run does at its end, and undoes
  EXPECT_FALSE(reads_back());
  change_byte(out_ / (name + ".partial"), 9);
  EXPECT_TRUE(reads_back());
  EXPECT_FALSE(reads_back());
  finish();
}

TEST_P(ResumeTest, AFolderInAShardsPlaceIsRefused) {
  run_until(2, Phase::kMake, options());
  files_.remove(partial_path(out_, plan_.shards[0]));
  files_.create_folders(partial_path(out_, plan_.shards[0]));
  expect_error(
      ErrorKind::kRefused, [&] { run_job(*source_, plan_, rows_, out_, options()); },
      "is not the file that this job made", "a folder", "move it away");
  files_.remove(partial_path(out_, plan_.shards[0]));
  finish();
}

TEST_P(ResumeTest, ATensorThatIsJournaledTwiceCountsOnce) {
  run_until(2, Phase::kMake, options());
  const JobState before = state();
  const auto& [index, is] = *before.tensors.begin();
  {
    const JournalEnd end = read_journal(files_, job("journal"), [](const Json&) {});
    Journal(files_, job("journal"), end)
        .append(done_entry({.stage = "", .tensors = {{index, is}}, .scalars = {}}));
  }
  EXPECT_EQ(state().durable_bytes, before.durable_bytes);
  EXPECT_EQ(state().tensors_made_twice, 1u);
  EXPECT_EQ(state().tensors.size(), before.tensors.size());
}

TEST_P(ResumeTest, RowsAreSavedAndLoaded) {
  files_.create_folders("/rows");
  EXPECT_FALSE(load_rows(files_, "/rows"));
  CalibrationRows rows = *rows_.rows;
  rows.ids.push_back({});
  save_rows(files_, "/rows", rows);
  EXPECT_EQ(load_rows(files_, "/rows")->ids, rows.ids);
  files_.open("/rows/rows", Access::kUpdateDirect)->set_size(13);
  expect_error(
      ErrorKind::kBadInput, [&] { load_rows(files_, "/rows"); }, "is damaged");
}

TEST_P(ResumeTest, TheHeadStartsAtTheSavedStreams) {
  RunOptions until_head = options();
  until_head.progress = [](const Progress& progress) {
    if (progress.stage == "rest") throw Stop();
  };
  EXPECT_THROW(run_job(*source_, plan_, rows_, out_, until_head), Stop);
  EXPECT_EQ(state().layers.size(), plan_.layers());
  EXPECT_EQ(state().streams->layer, plan_.layers());
  EXPECT_FALSE(state().perplexity);
  until_head.progress = {};
  const RunRecord record = finish();
  EXPECT_TRUE(record.notes.empty());
  EXPECT_TRUE(record.perplexity);
  uint64_t layer_bytes = 0;
  for (const Tensor& tensor : source_->tensors())
    layer_bytes += tensor.name.starts_with("layers.") ? tensor.size_bytes : 0;
  EXPECT_LE(record.read_bytes, plan_.source_bytes - layer_bytes);
}

// Streams are saved for no layer: so that their room on the disk is not needed, neither are they for the
// head.
TEST_P(ResumeTest, WithoutSavedStreamsTheHeadNeedsAllLayersAgain) {
  RunOptions until_head = options(plan_.layers());
  until_head.progress = [](const Progress& progress) {
    if (progress.stage == "rest") throw Stop();
  };
  EXPECT_THROW(run_job(*source_, plan_, rows_, out_, until_head), Stop);
  EXPECT_FALSE(state().streams);
  const RunRecord record = finish();
  ASSERT_EQ(record.notes.size(), 1u);
  EXPECT_NE(record.notes[0].find("starts at layer 0 again"), std::string::npos) << record.notes[0];
}

// As versions before the perplexity left it: the streams enter the last layer.
TEST_P(ResumeTest, AJournalWithoutPerplexityIsNotedAndGoesOn) {
  run_until(4, Phase::kSaveStreams, options());
  const std::filesystem::path streams = job("streams-4");
  const std::string saved = read_text(files_, streams, 1 << 24);
  RunOptions until_end = options();
  until_end.progress = [](const Progress& progress) {
    if (progress.phase == Phase::kFinish) throw Stop();
  };
  EXPECT_THROW(run_job(*source_, plan_, rows_, out_, until_end), Stop);
  EXPECT_TRUE(state().perplexity);
  std::vector<Json> entries;
  read_journal(files_, job("journal"), [&](const Json& entry) {
    const bool of_head = entry.contains("streams") && entry["streams"]["layer"] == plan_.layers();
    if (!of_head && !entry.contains("perplexity")) entries.push_back(entry);
  });
  files_.remove(job("journal"));
  Journal(files_, job("journal"), {}).append_all(entries);
  files_.open(streams, Access::kCreate)->write(0, std::as_bytes(std::span(saved)));
  const RunRecord record = finish();
  ASSERT_EQ(record.notes.size(), 1u);
  EXPECT_NE(record.notes[0].find("perplexity of the rows is not in the journal"), std::string::npos);
  EXPECT_NE(record.notes[0].find("starts at layer 4 again"), std::string::npos) << record.notes[0];
}

TEST_P(ResumeTest, NothingIsComputedWhenEveryLayerIsKnown) {
  RunOptions until_end = options();
  until_end.progress = [](const Progress& progress) {
    if (progress.phase == Phase::kFinish) throw Stop();
  };
  EXPECT_THROW(run_job(*source_, plan_, rows_, out_, until_end), Stop);
  const RunRecord record = finish();
  EXPECT_EQ(record.layers.size(), plan_.layers());
}

TEST_P(ResumeTest, ChangedDurableBytesAreFoundByTheirChecksums) {
  run_until(4, Phase::kMake, options());
  EXPECT_TRUE(verify_durable(files_, plan_, state(), out_, {}).ok());
  uint32_t index = 0;
  for (const auto& [tensor, durable] : state().tensors) index = std::max(index, tensor);
  const Tensor& tensor = plan_.tensors[index].out;
  change_byte(out_ / (plan_.shards[tensor.shard].name + ".partial"), tensor.offset);
  const ChecksumReport report = verify_durable(files_, plan_, state(), out_, {});
  ASSERT_EQ(report.problems.size(), 1u);
  EXPECT_NE(report.problems[0].find(tensor.name), std::string::npos) << report.problems[0];
}

TEST_P(ResumeTest, FinishedOutputAgainstItsRecord) {
  const std::filesystem::path whole = "/whole";
  const ChecksumReport right = verify_checksums(files_, whole, {});
  EXPECT_TRUE(right.ok());
  EXPECT_EQ(right.tensors, plan_.tensors.size());
  const auto expect_problem = [&](const std::string& file, uint64_t at, const std::string& names) {
    change_byte(whole / file, at);
    const ChecksumReport report = verify_checksums(files_, whole, {});
    change_byte(whole / file, at);
    ASSERT_EQ(report.problems.size(), 1u) << file;
    EXPECT_NE(report.problems[0].find(names), std::string::npos) << report.problems[0];
  };
  const PlannedTensor& last = plan_.tensors.back();
  expect_problem(plan_.shards.back().name, last.out.offset, last.out.name);
  expect_problem("tokenizer.json", 10, "tokenizer.json");
  expect_problem("calibration/amax.safetensors", 400, "amax.safetensors");
  files_.remove(whole / "generation_config.json");
  EXPECT_EQ(verify_checksums(files_, whole, {}).problems.size(), 1u);
}

// A job so small that every byte of its records can be damaged.
class DamagedRecordTest : public ResumeTest {
 protected:
  DamagedRecordTest() : ResumeTest(smallest(GetParam())) {
    // Every entry there can be: the run stops when the last bytes are written.
    RunOptions until_end = options();
    until_end.progress = [](const Progress& progress) {
      if (progress.phase == Phase::kFinish) throw Stop();
    };
    EXPECT_THROW(run_job(*source_, plan_, rows_, out_, until_end), Stop);
    left_ = contents(out_);
  }

  // Each cut, and each byte with one bit and with all bits changed; `at` is the first byte that is not as it
  // was.
  void for_all_damages(const std::string& text,
                       const std::function<void(const std::string& damaged, size_t at)>& check) {
    for (size_t at = 0; at < text.size(); ++at) {
      check(text.substr(0, at), at);
      for (const int flip : {4, 0xff}) {
        std::string damaged = text;
        damaged[at] = static_cast<char>(damaged[at] ^ flip);
        check(damaged, at);
      }
    }
  }

  std::map<std::string, std::string> left_;
};

// A run sees of its journal where it holds to, and goes on from there: the first for every damage, the second
// for every line.
TEST_P(DamagedRecordTest, JournalHoldsUpToTheDamagedLine) {
  const std::string text = left_.at(".nibblecast/journal");
  size_t line = 0;
  for_all_damages(text, [&](const std::string& damaged, size_t at) {
    if (at > 0 && text[at - 1] == '\n') line = at;
    files_.open("/damaged", Access::kCreate)->write(0, std::as_bytes(std::span(damaged)));
    size_t entries = 0;
    const JournalEnd end = read_journal(files_, "/damaged", [&](const Json&) { ++entries; });
    ASSERT_EQ(end.whole_bytes, line) << at;
    ASSERT_EQ(entries, static_cast<size_t>(std::count(text.begin(), text.begin() + line, '\n'))) << at;
  });
}

TEST_P(DamagedRecordTest, JournalGoesOnFromEveryLine) {
  const std::string text = left_.at(".nibblecast/journal");
  auto left = left_;
  for (size_t line = 0; line < text.size(); line = text.find('\n', line) + 1) {
    left[".nibblecast/journal"] = text.substr(0, line);
    restore(left);
    finish();
    left[".nibblecast/journal"] = text;
    left[".nibblecast/journal"][line + 40] ^= 4;
    restore(left);
    finish();
  }
}

// job.json is durable before anything else, so only a disk's fault damages it. It must not be gone on with,
// unless it says the same.
TEST_P(DamagedRecordTest, JobRecordIsRefusedOrSaysTheSame) {
  const std::string text = left_.at(".nibblecast/job.json");
  const Json whole = Json::parse(text);
  files_.create_folders("/damaged");
  size_t refused = 0;
  for_all_damages(text, [&](const std::string& damaged, size_t at) {
    files_.open("/damaged/job.json", Access::kCreate)->write(0, std::as_bytes(std::span(damaged)));
    try {
      const std::optional<JobRecord> record = read_job(files_, "/damaged");
      ASSERT_TRUE(record && record->description.identity == whole.at("identity")) << at;
      ASSERT_TRUE(record->description.source == whole.at("source")) << at;
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::kBadInput) << error.what();
      ++refused;
    }
  });
  EXPECT_GT(refused, text.size() * 2);
}

TEST_P(DamagedRecordTest, JobRecordOfAnotherVersion) {
  auto left = left_;
  std::string& text = left[".nibblecast/job.json"];
  text.replace(text.find("job/2"), 5, "job/9");
  restore(left);
  expect_error(
      ErrorKind::kBadInput, [&] { run_job(*source_, plan_, rows_, out_, options()); },
      "not what this version writes", "nibblecast.job/2", "the version that began it");
  text = text.substr(0, 100);
  restore(left);
  expect_error(
      ErrorKind::kBadInput, [&] { run_job(*source_, plan_, rows_, out_, options()); }, "is damaged",
      "to begin again");
}

TEST_P(ResumeTest, AnInterruptedCalibrationGoesOn) {
  const std::filesystem::path amax = "/amax.safetensors", folder = "/amax.job";
  const auto calibrate_to = [&](const std::filesystem::path& output, RunOptions options) {
    options.amax_output = output;
    Job job = Job::open(files_, folder, {}, describe(*source_, plan_, rows_));
    calibrate(*source_, plan_, rows_, job, options);
    job.close();
  };
  RunOptions until_three = options();
  until_three.progress = [](const Progress& progress) {
    if (progress.stage == "layer 3") throw Stop();
  };
  EXPECT_THROW(calibrate_to(amax, until_three), Stop);
  EXPECT_EQ(read_amax(files_, amax).layers.size(), 3u);
  calibrate_to(amax, options());
  EXPECT_EQ(read_text(files_, amax, 1 << 24), expected_.at("calibration/amax.safetensors"));
  EXPECT_FALSE(files_.status(folder));
}

INSTANTIATE_TEST_SUITE_P(Models, ResumeTest, ::testing::ValuesIn(testing::small_models()),
                         testing::model_name);
INSTANTIATE_TEST_SUITE_P(Models, DamagedRecordTest, ::testing::ValuesIn(testing::small_models()),
                         testing::model_name);

}  // namespace
}  // namespace nibblecast
