#include "base/file.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/buffer.h"
#include "base/hash.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;

std::vector<std::byte> pattern(size_t size) {
  std::vector<std::byte> bytes(size);
  for (size_t index = 0; index < size; ++index)
    bytes[index] = static_cast<std::byte>(index * 31 + index / 255);
  return bytes;
}

TEST(File, DirectAndCachedRequestsMixOnOneFile) {
  TemporaryFolder folder;
  const auto content = pattern(3 * kDirectAlignment + 77);
  const auto out = system_files().open(folder.path() / "f", Access::kCreateDirect);
  Buffer aligned(2 * kDirectAlignment);
  std::copy_n(content.begin() + kDirectAlignment, aligned.size(), aligned.data());
  out->write(0, std::span(content).first(kDirectAlignment));  // unaligned memory: page cache
  out->write(kDirectAlignment, aligned.bytes());              // direct
  out->write(3 * kDirectAlignment, std::span(content).subspan(3 * kDirectAlignment));
  out->sync();
  out->close();

  const auto in = system_files().open(folder.path() / "f", Access::kReadDirect);
  ASSERT_EQ(in->size(), content.size());
  std::vector<std::byte> back(content.size());
  in->read(0, back);
  EXPECT_EQ(back, content);
  Buffer first(kDirectAlignment);
  in->read(0, first.bytes());
  EXPECT_TRUE(std::equal(first.bytes().begin(), first.bytes().end(), content.begin()));
}

TEST(File, UpdateKeepsTheContentAndNeedsAFile) {
  TemporaryFolder folder;
  const auto path = folder.path() / "f";
  expect_error(
      ErrorKind::kIo, [&] { system_files().open(path, Access::kUpdateDirect); }, "/f", "No such file");
  const auto content = pattern(2 * kDirectAlignment + 5);
  {
    const auto out = system_files().open(path, Access::kCreate);
    out->write(0, content);
    out->close();
  }
  const auto file = system_files().open(path, Access::kUpdateDirect);
  EXPECT_EQ(file->size(), content.size());
  Buffer page(kDirectAlignment);
  std::fill(page.bytes().begin(), page.bytes().end(), std::byte{7});
  file->write(kDirectAlignment, page.bytes());
  file->write(2 * kDirectAlignment + 4, page.bytes().first(1));
  file->sync();
  std::vector<std::byte> back(content.size());
  file->read(0, back);
  auto expected = content;
  std::fill_n(expected.begin() + kDirectAlignment, kDirectAlignment, std::byte{7});
  expected.back() = std::byte{7};
  EXPECT_EQ(back, expected);
  file->close();
}

TEST(File, ReadPastTheEndNamesFileAndOffset) {
  TemporaryFolder folder;
  write_text_durably(system_files(), folder.path() / "f", "abc");
  const auto in = system_files().open(folder.path() / "f", Access::kRead);
  std::vector<std::byte> bytes(10);
  expect_error(
      ErrorKind::kIo, [&] { in->read(0, bytes); }, "/f", "at byte 3", "ends 7 bytes early");
}

TEST(FileSystem, ErrorsNameThePath) {
  expect_error(
      ErrorKind::kBadInput, [] { system_files().open("/no/such/file", Access::kRead); }, "/no/such/file",
      "No such file");
  EXPECT_FALSE(system_files().status("/no/such/file"));
}

TEST(FileSystem, DurableTextLeavesNoPartial) {
  TemporaryFolder folder;
  write_text_durably(system_files(), folder.path() / "a.json", "{}");
  EXPECT_EQ(system_files().list(folder.path()), std::vector<std::string>{"a.json"});
  EXPECT_EQ(read_text(system_files(), folder.path() / "a.json", 10), "{}");
  expect_error(
      ErrorKind::kBadInput, [&] { read_text(system_files(), folder.path() / "a.json", 1); }, "too large",
      "found 2");
}

TEST(FileSystem, CopyKeepsBytesAndRefusesToReplace) {
  TemporaryFolder folder;
  write_text_durably(system_files(), folder.path() / "a", "hello");
  system_files().copy(folder.path() / "a", folder.path() / "b");
  EXPECT_EQ(read_text(system_files(), folder.path() / "b", 10), "hello");
  expect_error(
      ErrorKind::kIo, [&] { system_files().copy(folder.path() / "a", folder.path() / "b"); }, "/b",
      "File exists");
}

TEST(FileSystem, CreateFoldersMakesWhatIsMissing) {
  TemporaryFolder folder;
  system_files().create_folders(folder.path() / "a" / "b" / "");
  system_files().create_folders(folder.path() / "a" / "b");
  EXPECT_TRUE(system_files().status(folder.path() / "a" / "b")->is_folder);
  write_text_durably(system_files(), folder.path() / "f", "");
  expect_error(
      ErrorKind::kIo, [&] { system_files().create_folders(folder.path() / "f"); }, "/f", "File exists");
  expect_error(
      ErrorKind::kIo, [&] { system_files().create_folders(folder.path() / "f" / "g"); }, "create folder");
}

TEST(FileSystem, ARealPathHasNoLinksAndNeedNotBeThere) {
  TemporaryFolder folder;
  const std::filesystem::path real = std::filesystem::canonical(folder.path());
  std::filesystem::create_directory(real / "d");
  std::filesystem::create_directory_symlink("d", real / "link");
  for (const char* name : {"link", "link/", "link/.", "d/../link", "./d"})
    EXPECT_EQ(system_files().real_path(folder.path() / name), real / "d") << name;
  EXPECT_EQ(system_files().real_path(folder.path() / "link/a/../b/"), real / "d/b");
  EXPECT_EQ(system_files().real_path("not-there"), std::filesystem::current_path() / "not-there");
  EXPECT_EQ(system_files().real_path("/"), "/");
}

TEST(FileSystem, ADiskIsThatOfTheNearestFolder) {
  TemporaryFolder folder;
  write_text_durably(system_files(), folder.path() / "f", "");
  const Disk disk = system_files().disk(folder.path());
  EXPECT_GT(disk.free_bytes, 0u);
  EXPECT_GE(disk.most_name_bytes, 100u);
  EXPECT_TRUE(disk.is_writable);
  for (const char* below : {"not/there", "f", "f/g", ""}) {
    const Disk found = system_files().disk(folder.path() / below);
    EXPECT_EQ(found.folder, folder.path()) << below;
    EXPECT_EQ(found.id, disk.id) << below;
  }
  EXPECT_EQ(system_files().disk("not-there").folder, std::filesystem::current_path());
  EXPECT_NE(system_files().disk("/proc").id, disk.id);
}

TEST(FileSystem, AnUnnamedFileLeavesNothing) {
  TemporaryFolder folder;
  const auto file = system_files().open_unnamed(folder.path() / "not-there");
  if (!file) GTEST_SKIP() << "this disk has no unnamed files";
  const Buffer block(2 * kDirectAlignment);
  std::ranges::fill(block.bytes(), std::byte{7});
  file->write(0, block.bytes());
  std::ranges::fill(block.bytes(), std::byte{0});
  file->read(0, block.bytes());
  EXPECT_EQ(std::ranges::count(block.bytes(), std::byte{7}), std::ssize(block.bytes()));
  EXPECT_TRUE(system_files().list(folder.path()).empty());
}

TEST(Buffer, IsAlignedAndMoves) {
  Buffer a(100);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data()) % kDirectAlignment, 0u);
  Buffer b = std::move(a);
  EXPECT_FALSE(a);
  EXPECT_EQ(b.size(), 100u);
}

TEST(Hash, IsIncrementalXxh3) {
  Hash whole, parts;
  whole.add("nibblecast");
  parts.add("nibble");
  parts.add("cast");
  EXPECT_EQ(whole.hex(), parts.hex());
  // From `printf '' | xxh128sum`.
  EXPECT_EQ(Hash().hex(), "99aa06d3014798d86001c324468d497f");
}

}  // namespace
}  // namespace nibblecast
