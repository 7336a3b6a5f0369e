// What streams by, kept as the Hub's cache keeps it.
#include "remote/hub_store.h"

#include <gmock/gmock.h>

#include <fstream>

#include "base/threads.h"
#include "remote/remote_testing.h"

namespace nibblecast::testing {
namespace {

namespace fs = std::filesystem;

class HubStoreTest : public ::testing::Test {
 protected:
  HubStoreTest() {
    write("model/config.json", "{}");
    write("model/encoding/code.py", "print()");
    for (size_t index = 0; index < kBytes; ++index) weights_ += static_cast<char>('a' + index * index % 23);
    write("model/weights.safetensors", weights_);
    settings_.cache = path("cache");
    settings_.keeps = true;
  }

  void write(const std::string& name, const std::string& text) const {
    fs::create_directories(path(name).parent_path());
    std::ofstream(path(name), std::ios::binary) << text;
  }
  fs::path path(const std::string& name) const { return folder_.path() / name; }
  fs::path kept(const std::string& name) const { return path("cache/models--owner--tiny") / name; }
  fs::path snapshot(const std::string& name) const {
    return kept(std::string("snapshots/") + HubServer::kCommit) / name;
  }
  static std::string content(const fs::path& file) { return read_text(system_files(), file, 1 << 20); }

  std::unique_ptr<RemoteFolder> open(const HubServer& hub) {
    settings_.endpoint = hub.endpoint();
    settings_.retry = quick_tries();
    return open_hub_folder(settings_, address_of(hub), test_transport(), system_files());
  }

  // In pieces, on several threads.
  static void read(RemoteFolder& folder, const std::string& name, size_t begin, size_t end) {
    constexpr size_t kPiece = 10'007;
    const auto file = folder.open(name, Access::kReadDirect);
    run_on_threads((end - begin + kPiece - 1) / kPiece, 4, [&](size_t piece) {
      const size_t from = begin + piece * kPiece;
      std::vector<std::byte> bytes(std::min(kPiece, end - from));
      file->read(from, bytes);
    });
  }

  static constexpr size_t kBytes = 200'000;
  std::string weights_;
  HubSettings settings_;

 private:
  TemporaryFolder folder_;
};

TEST_F(HubStoreTest, WholeFilesStandAsInTheHubsCache) {
  HubServer hub(path("model"));
  {
    const auto folder = open(hub);
    read(*folder, "weights.safetensors", 0, kBytes);
    for (const char* name : {"config.json", "encoding/code.py"}) text_of(*folder->open(name, Access::kRead));
    const HubStore::Report report = folder->store()->finish();
    EXPECT_EQ(report.files, 3u);
    EXPECT_EQ(report.bytes, kBytes + 2 + 7);
    EXPECT_TRUE(report.partial.empty());
  }
  EXPECT_EQ(content(kept("refs/main")), HubServer::kCommit);
  for (const auto& [name, file] : hub.files()) {
    EXPECT_EQ(fs::canonical(snapshot(name)), fs::canonical(kept("blobs") / file.oid)) << name;
    EXPECT_TRUE(fs::read_symlink(snapshot(name)).is_relative());
    EXPECT_TRUE(content(snapshot(name)) == file.content) << name;
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(kept("blobs")), {}), 3);
  const size_t links = hub.links();
  const auto again = open(hub);
  EXPECT_TRUE(text_of(*again->open("weights.safetensors", Access::kRead)) == weights_);
  EXPECT_EQ(hub.links(), links);
}

TEST_F(HubStoreTest, PartsAreGoneOnWith) {
  HubServer hub(path("model"));
  {
    const auto folder = open(hub);
    read(*folder, "weights.safetensors", 0, 100'000);
    read(*folder, "weights.safetensors", 150'000, 160'000);
    const HubStore::Report report = folder->store()->finish();
    ASSERT_EQ(report.partial.size(), 1u);
    EXPECT_EQ(report.partial[0].name, "weights.safetensors");
    EXPECT_EQ(report.partial[0].bytes, 110'000u);
    EXPECT_EQ(report.partial[0].of, kBytes);
  }
  const std::string blob = "blobs/" + hub.files()["weights.safetensors"].oid;
  EXPECT_FALSE(fs::exists(kept("refs/main")));
  EXPECT_FALSE(fs::exists(kept(blob)));
  EXPECT_FALSE(fs::exists(snapshot("weights.safetensors")));
  // A kill in the middle of a note.
  std::ofstream(kept(blob + ".nibblecast.ranges"), std::ios::app) << "160000 1999";
  {
    const auto folder = open(hub);
    EXPECT_TRUE(folder->store()->holds("weights.safetensors", 10, 100'000));
    EXPECT_FALSE(folder->store()->holds("weights.safetensors", 10, 100'001));
    EXPECT_FALSE(folder->store()->holds("weights.safetensors", 160'000, 160'001));
    read(*folder, "weights.safetensors", 100'000, 150'000);
    read(*folder, "weights.safetensors", 160'000, 170'000);
  }
  const auto folder = open(hub);
  read(*folder, "weights.safetensors", 170'000, kBytes);
  EXPECT_TRUE(folder->store()->finish().partial.empty());
  EXPECT_TRUE(content(snapshot("weights.safetensors")) == weights_);
  EXPECT_FALSE(fs::exists(kept(blob + ".nibblecast.ranges")));
  EXPECT_EQ(hub.most_often_sent("weights.safetensors"), 1);
}

// All is there, and the end came before it was checked.
TEST_F(HubStoreTest, WhatWasNotCheckedIsCheckedTheNextTime) {
  HubServer hub(path("model"));
  const std::string blob = "blobs/" + hub.files()["weights.safetensors"].oid;
  write("cache/models--owner--tiny/" + blob + ".nibblecast.incomplete", weights_);
  write("cache/models--owner--tiny/" + blob + ".nibblecast.ranges", "100 200000\n0 150\n");
  const auto folder = open(hub);
  EXPECT_EQ(folder->store()->finish().files, 1u);
  EXPECT_TRUE(content(snapshot("weights.safetensors")) == weights_);
}

TEST_F(HubStoreTest, NotesThatDoNotFitAreWorthNothing) {
  HubServer hub(path("model"));
  const std::string blob = "blobs/" + hub.files()["weights.safetensors"].oid;
  for (const char* notes : {"0 200001\n", "5 5\n", "x\n", "0 100000\n-1 7\n"}) {
    write("cache/models--owner--tiny/" + blob + ".nibblecast.incomplete", std::string(kBytes, '-'));
    write("cache/models--owner--tiny/" + blob + ".nibblecast.ranges", notes);
    EXPECT_FALSE(open(hub)->store()->holds("weights.safetensors", 0, 1)) << notes;
  }
  const auto folder = open(hub);
  read(*folder, "weights.safetensors", 0, kBytes);
  EXPECT_EQ(folder->store()->finish().files, 1u);
}

TEST_F(HubStoreTest, OtherBytesGetNoName) {
  HubServer hub(path("model"));
  hub.spoil_store = [](const ServerRequest&, ServerReply& reply) { reply.body.back() ^= 1; };
  const auto folder = open(hub);
  read(*folder, "weights.safetensors", 0, kBytes);
  expect_error(
      ErrorKind::kBadInput, [&] { folder->store()->finish(); }, "weights.safetensors",
      "its checksum is another");
  EXPECT_TRUE(fs::is_empty(kept("blobs")));
  EXPECT_FALSE(fs::exists(kept("refs/main")));
}

TEST_F(HubStoreTest, OneContentUnderTwoNames) {
  write("model/other.safetensors", weights_);
  HubServer hub(path("model"));
  const auto folder = open(hub);
  read(*folder, "weights.safetensors", 0, 100'000);
  read(*folder, "other.safetensors", 100'000, kBytes);
  EXPECT_EQ(folder->store()->finish().files, 1u);
  EXPECT_TRUE(content(snapshot("weights.safetensors")) == weights_);
  EXPECT_TRUE(content(snapshot("other.safetensors")) == weights_);
}

TEST_F(HubStoreTest, OneProgramAtATime) {
  HubServer hub(path("model"));
  const auto folder = open(hub);
  expect_error(
      ErrorKind::kRefused, [&] { open(hub); }, "models--owner--tiny", "another nibblecast stores");
}

}  // namespace
}  // namespace nibblecast::testing
