#include "pipeline/verify_source.h"

#include <gmock/gmock.h>

#include "base/digest.h"
#include "base/error.h"
#include "testing.h"

namespace nibblecast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TemporaryFolder;

std::string sha256_of(const std::string& text) {
  Digest digest(Digest::Kind::kSha256);
  digest.add(text);
  return digest.hex();
}

std::string git_name_of(const std::string& text) {
  Digest digest(Digest::Kind::kSha1);
  digest.add("blob " + std::to_string(text.size()) + '\0' + text);
  return digest.hex();
}

class VerifySourceTest : public ::testing::Test {
 protected:
  void write(const std::filesystem::path& path, const std::string& text) const {
    std::filesystem::create_directories((folder_.path() / path).parent_path());
    system_files().open(folder_.path() / path, Access::kCreate)->write(0, std::as_bytes(std::span(text)));
  }
  // As the Hub's cache lays a file out.
  void cache(const std::filesystem::path& file, const std::string& checksum, const std::string& text) const {
    write("blobs/" + checksum, text);
    std::filesystem::path up = "../..";
    for (auto part = file.begin(); std::next(part) != file.end(); ++part) up = ".." / up;
    std::filesystem::create_directories((snapshot() / file).parent_path());
    std::filesystem::create_symlink(up / "blobs" / checksum, snapshot() / file);
  }
  // As `hf download --local-dir` does.
  void download(const std::string& file, const std::string& checksum, const std::string& text) const {
    write("local/" + file, text);
    write("local/.cache/huggingface/download/" + file + ".metadata",
          "0123456789abcdef0123456789abcdef01234567\n" + checksum + "\n1700000000.5\n");
  }
  std::filesystem::path snapshot() const { return folder_.path() / "snapshots/0123"; }
  std::filesystem::path local() const { return folder_.path() / "local"; }
  SourceReport check(const std::filesystem::path& folder) const {
    return verify_source(folder, system_files());
  }

  TemporaryFolder folder_;
  const std::string large_ = std::string(9'000'000, 'x') + "the end";  // more than one request
};

TEST_F(VerifySourceTest, ACacheIsAsTheHubHasIt) {
  cache("model.safetensors", sha256_of(large_), large_);
  cache("config.json", git_name_of("{}"), "{}");
  cache("inference/deep/model.py", git_name_of("import"), "import");
  cache("empty", git_name_of(""), "");
  const SourceReport report = check(snapshot());
  EXPECT_THAT(report.problems, IsEmpty());
  EXPECT_THAT(report.unchecked, IsEmpty());
  EXPECT_EQ(report.files, 4u);
  EXPECT_EQ(report.bytes, large_.size() + 2 + 6);
}

TEST_F(VerifySourceTest, EveryDamagedFileIsNamed) {
  std::string damaged = large_;
  damaged.back() ^= 1;
  cache("a.safetensors", sha256_of(large_), damaged);
  cache("b.safetensors", sha256_of("whole"), "whol");  // cut
  cache("c.safetensors", sha256_of("right"), "right");
  cache("d/config.json", git_name_of("{}"), "{ }");
  const SourceReport report = check(snapshot());
  EXPECT_THAT(report.problems,
              ElementsAre(HasSubstr("a.safetensors: is damaged: the Hub has " + sha256_of(large_)),
                          HasSubstr("b.safetensors: is damaged"), HasSubstr("d/config.json: is damaged")));
  EXPECT_EQ(report.files, 4u);
}

TEST_F(VerifySourceTest, ALinkThatLeadsNowhereIsAProblem) {
  cache("a.safetensors", sha256_of("a"), "a");
  std::filesystem::remove(folder_.path() / "blobs" / sha256_of("a"));
  EXPECT_THAT(check(snapshot()).problems, ElementsAre(HasSubstr("a.safetensors: leads nowhere")));
}

TEST_F(VerifySourceTest, ADownloadedFolderIsHeldAgainstItsNotes) {
  download("model.safetensors", sha256_of(large_), large_);
  download("config.json", git_name_of("{}"), "{}");
  download("sub/x.json", git_name_of("[]"), "[]");
  EXPECT_TRUE(check(local()).ok());
  EXPECT_EQ(check(local()).files, 3u);
  write("local/sub/x.json", "[1]");
  std::filesystem::remove(local() / "config.json");
  EXPECT_THAT(check(local()).problems,
              ElementsAre(HasSubstr("config.json: is missing"), HasSubstr("sub/x.json: is damaged")));
}

TEST_F(VerifySourceTest, WhatCannotBeCheckedIsSaid) {
  download("known", git_name_of("1"), "1");
  write("local/mine.txt", "not from the Hub");
  write("local/.hidden", "left out");
  download("odd", "W/\"weak-etag\"", "2");         // no checksum
  download("cut", sha256_of("3").substr(1), "3");  // one digit is missing
  std::filesystem::create_symlink("../elsewhere/" + sha256_of("4"), local() / "link");
  write("elsewhere/" + sha256_of("4"), "4");  // no blob of a cache
  const SourceReport report = check(local());
  EXPECT_TRUE(report.ok());
  EXPECT_EQ(report.files, 1u);
  EXPECT_THAT(report.unchecked, ElementsAre("cut", "link", "mine.txt", "odd"));
}

TEST_F(VerifySourceTest, AnEmptyFolderHasNothingToCheck) {
  write("local/x", "");
  std::filesystem::remove(local() / "x");
  EXPECT_EQ(check(local()).files, 0u);
  testing::expect_error(
      ErrorKind::kBadInput, [&] { check(folder_.path() / "nothing"); }, "is no folder");
}

TEST_F(VerifySourceTest, WhatProgressThrowsEndsIt) {
  for (int file = 0; file < 20; ++file) {
    const std::string text = large_ + std::to_string(file);
    cache("f" + std::to_string(file), sha256_of(text), text);
  }
  struct Stopped {};
  const VerifyOptions options{.progress = [](const Progress&) { throw Stopped(); }};
  EXPECT_THROW(verify_source(snapshot(), system_files(), options), Stopped);
}

}  // namespace
}  // namespace nibblecast
