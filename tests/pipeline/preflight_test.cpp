// What a disk says of itself decides before the run whether there is one.
#include "pipeline/preflight.h"

#include <gmock/gmock.h>

#include <functional>

#include "faults/faulty_files.h"
#include "pipeline_testing.h"

namespace nibblecast::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The system's files on disks that `edit` changes.
class OtherDisks : public FaultyFiles {
 public:
  explicit OtherDisks(std::function<void(const Path&, Disk&)> edit)
      : FaultyFiles(system_files()), edit_(std::move(edit)) {}
  Disk disk(const Path& path) override {
    Disk found = FaultyFiles::disk(path);
    edit_(path, found);
    return found;
  }

 private:
  std::function<void(const Path&, Disk&)> edit_;
};

// Reasons of the refusals for a cast into `out`.
std::vector<std::string> refusals(std::function<void(const std::filesystem::path&, Disk&)> edit,
                                  const JobOptions& options = {}) {
  TemporaryFolder source_folder, folder;
  make_tiny_source(source_folder.path());
  OtherDisks files(std::move(edit));
  const Checkpoint source = Checkpoint::open(source_folder.path(), files);
  const Plan plan = make_plan(source, {});
  const Activations activations = {.rows = {}, .amax = {}, .origin = "", .identity = "none"};
  const JobMeans means{.memory_bytes = uint64_t{64} << 30};
  std::vector<std::string> reasons;
  const Preflight found = preflight(source, plan, activations, folder.path() / "out", options, means, false);
  for (const Finding& finding : found.findings)
    if (finding.severity == Severity::kRefusal) reasons.push_back(finding.reason);
  EXPECT_EQ(found.refused(), !reasons.empty());
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  return reasons;
}

TEST(Preflight, NothingHindersOnARoomyDisk) {
  EXPECT_THAT(refusals([](const auto&, Disk& disk) { disk.free_bytes = uint64_t{1} << 50; }), IsEmpty());
}

TEST(Preflight, ADiskWithoutRoom) {
  EXPECT_THAT(refusals([](const auto&, Disk& disk) { disk.free_bytes = 1000; }),
              ElementsAre(HasSubstr("bytes short")));
}

TEST(Preflight, AWorkFolderOnAnotherDiskWithoutRoom) {
  const auto edit = [](const std::filesystem::path& path, Disk& disk) {
    const bool is_work = path == "/not-there/work";
    disk.id = is_work ? 1 : 2;
    disk.free_bytes = is_work ? 10 : uint64_t{1} << 50;
    disk.is_writable = true;
  };
  EXPECT_THAT(refusals(edit, {.work_folder = "/not-there/work"}),
              ElementsAre(HasSubstr("/not-there/work has")));
}

TEST(Preflight, ADiskThatMayNotBeWrittenTo) {
  EXPECT_THAT(refusals([](const auto&, Disk& disk) { disk.is_writable = false; }),
              ElementsAre(HasSubstr("cannot be written to")));
}

TEST(Preflight, ADiskOfSmallFiles) {
  EXPECT_THAT(refusals([](const auto&, Disk& disk) { disk.most_file_bytes = 100'000; }),
              ::testing::Contains(HasSubstr("more than a file may have")));
}

TEST(Preflight, ADiskOfShortNames) {
  EXPECT_THAT(refusals([](const auto&, Disk& disk) { disk.most_name_bytes = 14; }),
              ::testing::Contains(HasSubstr("longer than a name may be")));
}

}  // namespace
}  // namespace nibblecast::testing
