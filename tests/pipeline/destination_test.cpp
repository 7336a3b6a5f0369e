#include "pipeline/destination.h"

#include <cstdlib>
#include <fstream>

#include "pipeline_testing.h"

namespace nibblecast {
namespace {

using testing::describe;
using testing::expect_error;
using testing::make_tiny_source;
using testing::plain_amax;
using testing::run_job;
using testing::TemporaryFolder;

class DestinationTest : public ::testing::Test {
 protected:
  DestinationTest() : source_folder_(folder_.path() / "source"), destination_(folder_.path() / "out") {
    make_tiny_source(source_folder_);
    source_.emplace(Checkpoint::open(source_folder_, system_files()));
    plan_ = make_plan(*source_, {});
  }
  Activations activations(const std::string& identity = "a") const {
    return {.rows = {}, .amax = plain_amax(plan_), .origin = "test", .identity = identity};
  }
  Job open(const std::string& identity, const std::filesystem::path& work_folder = {}) {
    return open_at(destination_, identity, work_folder);
  }
  Job open_at(const std::filesystem::path& destination, const std::string& identity = "a",
              const std::filesystem::path& work_folder = {}) {
    return open_destination(*source_, destination, work_folder,
                            describe(*source_, plan_, activations(identity)), plan_);
  }
  void put(const std::string& name) { std::ofstream(destination_ / name) << "x"; }
  bool has(const std::string& name) const { return std::filesystem::exists(destination_ / name); }

  TemporaryFolder folder_;
  std::filesystem::path source_folder_, destination_;
  std::optional<Checkpoint> source_;
  Plan plan_;
};

TEST_F(DestinationTest, TakesANewAndAnEmptyFolder) {
  {
    Job job = open("a");
    EXPECT_TRUE(has(".nibblecast/job.json"));
    EXPECT_FALSE(job.resumed());
    job.close();
  }
  EXPECT_TRUE(std::filesystem::is_empty(destination_));
  EXPECT_NO_THROW(open("b"));
}

TEST_F(DestinationTest, SameJobGoesOnWithItsShards) {
  open("a");
  const std::string shard = plan_.shards[0].name;
  put(shard + ".partial");
  put("config.json.partial");
  put("tokenizer.json");
  put("notes.txt");  // somebody's
  put(plan_.shards[1].name);
  const Job job = open("a");
  EXPECT_TRUE(job.resumed());
  EXPECT_TRUE(has(shard + ".partial"));
  EXPECT_FALSE(has("config.json.partial"));
  EXPECT_FALSE(has("tokenizer.json"));
  EXPECT_TRUE(has("notes.txt"));
  EXPECT_FALSE(has(plan_.shards[1].name));
  EXPECT_TRUE(has(plan_.shards[1].name + ".partial"));
}

TEST_F(DestinationTest, RefusesAnotherJobNamingWhatDiffers) {
  open("a");
  expect_error(
      ErrorKind::kRefused, [&] { open("b"); }, "another job", "calibration rows or amax file was a, is b");
}

TEST_F(DestinationTest, RefusesForeignFiles) {
  std::filesystem::create_directory(destination_);
  put("precious");
  expect_error(
      ErrorKind::kRefused, [&] { open("a"); }, "is not empty");
  EXPECT_TRUE(has("precious"));
}

TEST_F(DestinationTest, RefusesASecondProcess) {
  const Job job = open("a");
  expect_error(
      ErrorKind::kRefused, [&] { open("a"); }, "another process is at work here",
      "process " + std::to_string(getpid()) + " on ");
}

TEST_F(DestinationTest, RefusesASourceThatChanged) {
  open("a");
  const auto shard = source_folder_ / source_->shards()[0].name;
  std::filesystem::last_write_time(shard, std::filesystem::last_write_time(shard) + std::chrono::seconds(1));
  source_.emplace(Checkpoint::open(source_folder_, system_files()));
  expect_error(
      ErrorKind::kRefused, [&] { open("a"); }, source_->shards()[0].name, "changed since this job began",
      "give the file its time back: touch -d @", " " + shard.string());
}

TEST_F(DestinationTest, TheTouchThatItNamesMendsASourceWhoseTimeChanged) {
  open("a");
  for (const Shard& shard : source_->shards()) {
    const auto path = source_folder_ / shard.name;
    std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) - std::chrono::seconds(7));
  }
  source_.emplace(Checkpoint::open(source_folder_, system_files()));
  std::string hint;
  try {
    open("a");
  } catch (const Error& error) {
    hint = error.what();
  }
  ASSERT_NE(hint.find("touch -d"), std::string::npos) << hint;
  ASSERT_EQ(std::system(hint.substr(hint.find("touch -d")).c_str()), 0);
  source_.emplace(Checkpoint::open(source_folder_, system_files()));
  EXPECT_NO_THROW(open("a"));
}

TEST_F(DestinationTest, RefusesASourceOfAnotherSizeWithoutATouch) {
  open("a");
  JobDescription grown = describe(*source_, plan_, activations("a"));
  grown.source["shards"][0]["size_bytes"] = 1;
  expect_error(
      ErrorKind::kRefused, [&] { open_destination(*source_, destination_, {}, grown, plan_); },
      "changed since this job began", "size_bytes", "is not to be trusted");
}

TEST_F(DestinationTest, NamesTheOptionsThatDiffer) {
  JobDescription began = describe(*source_, plan_, activations("a"));
  began.options = {{"--weight-method", "cast"}, {"--calib-size", "128"}, {"--calib", "x"}};
  began.command = CommandRecord{{"quantize", "a b", "out"}, "/work"};
  open_destination(*source_, destination_, {}, began, plan_);
  JobDescription asked = began;
  asked.options = {{"--weight-method", "max"}, {"--calib-size", "64"}, {"--calib", "x"}};
  asked.identity["recipe"] = "nvfp4_experts_only 1b4b";
  asked.identity["calibration rows or amax file"] = "b";
  asked.identity["negative zero"] = "modelopt";
  const auto reopen = [&] { open_destination(*source_, destination_, {}, asked, plan_); };
  expect_error(ErrorKind::kRefused, reopen, "--weight-method was cast, is max", "--calib-size was 128, is 64",
               "--negative-zero was keep, is modelopt", "`nibblecast quantize 'a b' out`");
  // Nothing that was given explains it.
  asked.options = began.options;
  expect_error(ErrorKind::kRefused, reopen, "calibration rows or amax file was a, is b");
}

TEST_F(DestinationTest, ANamedFileDoesNotReplaceAShardInTheMaking) {
  open("a");
  const std::string shard = plan_.shards[0].name;
  put(shard + ".partial");
  std::ofstream(destination_ / shard) << "somebody's";
  open("a");
  EXPECT_EQ(std::filesystem::file_size(destination_ / (shard + ".partial")), 1u);
}

TEST_F(DestinationTest, KnowsItsFinishedOutput) {
  run_job(*source_, plan_, activations(), destination_);
  EXPECT_EQ(check_destination(system_files(), source_folder_, destination_,
                              describe(*source_, plan_, activations())),
            DestinationState::kFinished);
  expect_error(
      ErrorKind::kRefused, [&] { open("a"); }, "finished output");
  expect_error(
      ErrorKind::kRefused, [&] { open("b"); }, "finished output of another job");
}

TEST_F(DestinationTest, WorkFolderElsewhere) {
  const auto work = folder_.path() / "work";
  {
    const Job job = open("a", work);
    EXPECT_TRUE(std::filesystem::exists(work / "journal"));
  }
  EXPECT_EQ(open("a").work_folder(), work);  // the job knows where it keeps its state
  expect_error(
      ErrorKind::kRefused, [&] { open("a", folder_.path() / "other"); }, "another work folder");
  expect_error(
      ErrorKind::kRefused, [&] { open_at(folder_.path() / "out2", "a", work); }, "is not empty");
  open("a").close();
  EXPECT_FALSE(std::filesystem::exists(work));
}

TEST_F(DestinationTest, RefusesAFile) {
  std::ofstream(destination_.string()) << "x";
  expect_error(
      ErrorKind::kRefused, [&] { open("a"); }, "is not a folder");
}

TEST_F(DestinationTest, RefusesNestingEitherWayAndTheSame) {
  const auto refuse = [&](const std::filesystem::path& to) {
    expect_error(
        ErrorKind::kRefused, [&] { open_at(to); }, "inside one another");
  };
  refuse(source_folder_);
  refuse(source_folder_ / "out");
  refuse(folder_.path());
  refuse(source_folder_ / "x/.." / "out");
  std::filesystem::create_directory_symlink(source_folder_, folder_.path() / "link");
  refuse(folder_.path() / "link/out");
  EXPECT_NO_THROW(open_at(folder_.path() / "source2"));
  // A name that is not there yet, relative to where the user stands.
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(source_folder_);
  refuse("new");
  std::filesystem::current_path(before);
}

}  // namespace
}  // namespace nibblecast
