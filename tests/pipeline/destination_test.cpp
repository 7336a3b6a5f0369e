#include "pipeline/destination.h"

#include <fstream>

#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;

class DestinationTest : public ::testing::Test {
 protected:
  DestinationTest() : source_(folder_.path() / "source"), destination_(folder_.path() / "out") {
    std::filesystem::create_directory(source_);
  }
  void open(const std::string& identity) {
    open_destination(system_files(), source_, destination_, identity);
  }

  TemporaryFolder folder_;
  std::filesystem::path source_, destination_;
};

TEST_F(DestinationTest, TakesANewAndAnEmptyFolder) {
  open("a");
  EXPECT_TRUE(std::filesystem::exists(destination_ / ".nibblecast/job.json"));
  close_destination(system_files(), destination_);
  EXPECT_TRUE(std::filesystem::is_empty(destination_));
  EXPECT_NO_THROW(open("b"));
}

TEST_F(DestinationTest, SameJobStartsAgainOverWhatItLeft) {
  open("a");
  std::ofstream(destination_ / "model.safetensors.partial") << "x";
  EXPECT_NO_THROW(open("a"));
  EXPECT_FALSE(std::filesystem::exists(destination_ / "model.safetensors.partial"));
}

TEST_F(DestinationTest, RefusesAnotherJobAndForeignFiles) {
  open("a");
  expect_error(
      ErrorKind::kRefused, [&] { open("b"); }, "another job");
  close_destination(system_files(), destination_);
  std::ofstream(destination_ / "precious") << "x";
  expect_error(
      ErrorKind::kRefused, [&] { open("a"); }, "is not empty");
  EXPECT_TRUE(std::filesystem::exists(destination_ / "precious"));
}

TEST_F(DestinationTest, RefusesAFile) {
  std::ofstream(destination_) << "x";
  expect_error(
      ErrorKind::kRefused, [&] { open("a"); }, "is not a folder");
}

TEST_F(DestinationTest, RefusesNestingEitherWayAndTheSame) {
  const auto refuse = [&](const std::filesystem::path& from, const std::filesystem::path& to) {
    expect_error(
        ErrorKind::kRefused, [&] { open_destination(system_files(), from, to, "a"); }, "inside one another");
  };
  refuse(source_, source_);
  refuse(source_, source_ / "out");
  refuse(source_ / "deep", source_);
  refuse(source_, source_ / "x/.." / "out");
  std::filesystem::create_directory_symlink(source_, folder_.path() / "link");
  refuse(source_, folder_.path() / "link/out");
  EXPECT_NO_THROW(open_destination(system_files(), source_, folder_.path() / "source2", "a"));
}

}  // namespace
}  // namespace nibblecast
