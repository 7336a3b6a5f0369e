#include "checkpoint/checkpoint.h"

#include <gmock/gmock.h>

#include <fstream>

#include "checkpoint/safetensors.h"
#include "testing.h"

namespace nibblecast {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using testing::expect_error;
using ::testing::HasSubstr;
using testing::TemporaryFolder;

constexpr const char* kIndex = "model.safetensors.index.json";

void write(const fs::path& path, std::string_view text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

// A shard of U8 tensors with these names, each four bytes long and filled with its number + 1.
std::string shard_of(const std::vector<std::string>& names) {
  std::vector<Tensor> tensors;
  std::string data;
  for (const std::string& name : names) {
    tensors.push_back({.name = name, .shape = {4}, .offset = data.size(), .size_bytes = 4});
    data += std::string(4, static_cast<char>(tensors.size()));
  }
  return write_safetensors_header(tensors, {}) + data;
}

// Two shards with 'a', 'b' and 'c', their index and a config.
class OpenCheckpoint : public ::testing::Test {
 protected:
  OpenCheckpoint() {
    put("config.json", R"({"model_type": "m"})");
    put("1.safetensors", shard_of({"b", "a"}));
    put("2.safetensors", shard_of({"c"}));
    put(kIndex,
        R"({"metadata":{"total_size":12},"weight_map":{"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors"}})");
  }
  void put(const std::string& name, std::string_view text) { write(folder_.path() / name, text); }
  void remove(const std::string& name) { fs::remove(folder_.path() / name); }
  Checkpoint open() { return Checkpoint::open(folder_.path(), system_files()); }
  template <class... Parts>
  void refuse(const Parts&... parts) {
    expect_error(
        ErrorKind::kBadInput, [&] { open(); }, parts...);
  }

  TemporaryFolder folder_;
};

TEST_F(OpenCheckpoint, KnowsShardsAndTensors) {
  const Checkpoint checkpoint = open();
  EXPECT_EQ(checkpoint.config()["model_type"], "m");
  EXPECT_EQ(checkpoint.config_text(), R"({"model_type": "m"})");
  EXPECT_EQ(checkpoint.index_metadata()["total_size"], 12);
  ASSERT_EQ(checkpoint.shards().size(), 2u);
  EXPECT_EQ(checkpoint.shards()[0].name, "1.safetensors");
  EXPECT_EQ(checkpoint.shards()[0].size_bytes, fs::file_size(folder_.path() / "1.safetensors"));
  EXPECT_EQ(checkpoint.shards()[0].data_offset, 8 + checkpoint.shards()[0].header_json.size());
  std::vector<std::string> names;
  for (const Tensor& tensor : checkpoint.tensors()) names.push_back(tensor.name);
  EXPECT_THAT(names, ElementsAre("b", "a", "c"));
  EXPECT_EQ(checkpoint.at("c").shard, 1u);
  EXPECT_EQ(checkpoint.find("d"), nullptr);
  EXPECT_EQ(checkpoint.data_bytes(), 12u);
  expect_error(
      ErrorKind::kBadInput, [&] { checkpoint.at("d"); }, folder_.path().string(), "tensor 'd'");
  const Where where = checkpoint.where(checkpoint.at("a"));
  EXPECT_EQ(where.file, (folder_.path() / "1.safetensors").string());
  EXPECT_EQ(where.offset, checkpoint.shards()[0].data_offset + 4);
}

TEST_F(OpenCheckpoint, NamesOutliveAMove) {
  Checkpoint first = open();
  const Checkpoint second = std::move(first);
  EXPECT_EQ(second.at("a").name, "a");
}

TEST_F(OpenCheckpoint, ReadsTensors) {
  const Checkpoint checkpoint = open();
  TensorReader reader(checkpoint);
  EXPECT_EQ(reader.read(checkpoint.at("a")), std::vector<std::byte>(4, std::byte{2}));
  EXPECT_EQ(reader.read(checkpoint.at("c")), std::vector<std::byte>(4, std::byte{1}));
  std::byte last{};
  reader.read(checkpoint.at("b"), 3, {&last, 1});
  EXPECT_EQ(last, std::byte{1});
}

TEST_F(OpenCheckpoint, AFileCutAfterOpeningIsAnIoError) {
  const Checkpoint checkpoint = open();
  const Tensor& tensor = checkpoint.at("a");
  fs::resize_file(folder_.path() / "1.safetensors", tensor.offset + 1);
  TensorReader reader(checkpoint);
  expect_error(
      ErrorKind::kIo, [&] { reader.read(tensor); }, "1.safetensors", "ends 3 bytes early");
}

TEST_F(OpenCheckpoint, SingleFileNeedsNoIndex) {
  remove(kIndex);
  put("model.safetensors", shard_of({"x"}));
  const Checkpoint checkpoint = open();
  EXPECT_EQ(checkpoint.shards()[0].name, "model.safetensors");
  EXPECT_EQ(checkpoint.tensors().size(), 1u);
  EXPECT_EQ(checkpoint.index_text(), "");
  EXPECT_EQ(checkpoint.index_metadata(), Json::object());
}

TEST_F(OpenCheckpoint, IgnoresShardsOutsideTheIndex) {
  put("3.safetensors", "not even a safetensors file");
  put("model.safetensors", shard_of({"x"}));
  EXPECT_EQ(open().tensors().size(), 3u);
  EXPECT_TRUE(open().side_files().empty());
}

TEST_F(OpenCheckpoint, ShardsMayLieInFolders) {
  put("sub/1.safetensors", shard_of({"x"}));
  put(kIndex, R"({"weight_map":{"x":"sub/1.safetensors"}})");
  EXPECT_EQ(open().shards()[0].name, "sub/1.safetensors");
}

// As huggingface_hub lays out its cache: blobs by hash, a snapshot of links into them.
TEST(HubSnapshot, LinksAreFollowed) {
  TemporaryFolder cache;
  write(cache.path() / "blobs/c0", "{}");
  write(cache.path() / "blobs/50", shard_of({"x"}));
  write(cache.path() / "blobs/1d", R"({"weight_map":{"x":"model-00001-of-00001.safetensors"}})");
  write(cache.path() / "blobs/70", "tokens");
  const fs::path snapshot = cache.path() / "snapshots/main";
  fs::create_directories(snapshot / "encoding");
  fs::create_symlink("../../blobs/c0", snapshot / "config.json");
  fs::create_symlink("../../blobs/50", snapshot / "model-00001-of-00001.safetensors");
  fs::create_symlink("../../blobs/1d", snapshot / kIndex);
  fs::create_symlink("../../blobs/70", snapshot / "tokenizer.json");
  fs::create_symlink("../../../blobs/70", snapshot / "encoding/e.py");
  fs::create_directory_symlink(snapshot, cache.path() / "link");
  for (const fs::path& folder : {snapshot, cache.path() / "link"}) {
    const Checkpoint checkpoint = Checkpoint::open(folder, system_files());
    EXPECT_EQ(checkpoint.tensors().size(), 1u);
    EXPECT_THAT(checkpoint.side_files(), ElementsAre("encoding/e.py", "tokenizer.json"));
  }
  fs::remove(cache.path() / "blobs/50");
  expect_error(
      ErrorKind::kBadInput, [&] { Checkpoint::open(snapshot, system_files()); },
      "model-00001-of-00001.safetensors", "missing", "is the download complete?", "`hf download ");
}

TEST_F(OpenCheckpoint, RefusesFoldersWithoutACheckpoint) {
  expect_error(
      ErrorKind::kBadInput, [] { Checkpoint::open("/nonexistent", system_files()); }, "no such folder");
  const auto on_file = [&] { Checkpoint::open(folder_.path() / "config.json", system_files()); };
  expect_error(ErrorKind::kBadInput, on_file, "is not a folder");
  remove(kIndex);
  refuse("holds neither", "there is '1.safetensors' and 1 more, but the index", "hf download");
  remove("1.safetensors");
  remove("2.safetensors");
  refuse("holds neither", "is the download complete?");
  put("pytorch_model.bin", "");
  refuse("holds neither", "'pytorch_model.bin'", "only safetensors are read");
}

TEST_F(OpenCheckpoint, RefusesConfigs) {
  put("config.json", "[]");
  refuse("config.json", "does not hold a JSON object", "found array");
  put("config.json", "{");
  refuse("config.json", "not valid JSON");
  put("config.json", "version https://git-lfs.github.com/spec/v1\n");
  refuse("config.json", "Git LFS pointer");
  put("config.json", "");
  refuse("config.json");
  remove("config.json");
  refuse("config.json", "is missing");
  EXPECT_EQ(Checkpoint::open(folder_.path(), system_files(), false).config(), Json::object());
}

TEST_F(OpenCheckpoint, RefusesMissingShards) {
  remove("2.safetensors");
  refuse("1 of 2 shards that the index names are missing: 2.safetensors", "is the download complete?",
         "`hf download OWNER/NAME --local-dir " + folder_.path().string() + "`");
  fs::create_directory(folder_.path() / "2.safetensors");
  refuse("2.safetensors", "are missing");
  remove("1.safetensors");
  refuse("2 of 2 shards that the index names are missing: 1.safetensors, 2.safetensors");
  put("2.safetensors.incomplete", "");
  refuse("a download has stopped in the middle (2.safetensors.incomplete is there)", "goes on with it");
}

TEST_F(OpenCheckpoint, RefusesDamagedShards) {
  put("2.safetensors", "");
  refuse("2.safetensors", "the file is empty");
  put("2.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n");
  refuse("2.safetensors", "Git LFS pointer", "git lfs pull");
  const std::string whole = shard_of({"c"});
  put("2.safetensors", whole.substr(0, whole.size() - 3));
  refuse("2.safetensors", "tensor 'c'", "ends 3 bytes before its data does");
}

TEST_F(OpenCheckpoint, RefusesAnIndexThatIsAGitLfsPointer) {
  put(kIndex, "version https://git-lfs.github.com/spec/v1\n");
  refuse(kIndex, "Git LFS pointer");
}

TEST_F(OpenCheckpoint, RefusesAnEntryThatItsShardLacks) {
  put(kIndex,
      R"({"weight_map":{"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors","d":"2.safetensors"}})");
  refuse(kIndex, "tensor 'd'", "does not hold it", "expected in 2.safetensors, found in none");
}

TEST_F(OpenCheckpoint, RefusesATensorInAnotherShard) {
  put(kIndex, R"({"weight_map":{"a":"2.safetensors","b":"1.safetensors","c":"2.safetensors"}})");
  refuse(kIndex, "tensor 'a'", "expected in 2.safetensors, found in 1.safetensors");
}

TEST_F(OpenCheckpoint, RefusesATensorOutsideTheIndex) {
  put(kIndex, R"({"weight_map":{"a":"1.safetensors","c":"2.safetensors"}})");
  refuse("1.safetensors", "tensor 'b'", "is not in model.safetensors.index.json");
}

TEST_F(OpenCheckpoint, RefusesATensorInTwoShards) {
  put("2.safetensors", shard_of({"c", "a"}));
  refuse("2.safetensors", "tensor 'a'", "is in two shards", "also in 1.safetensors");
}

TEST_F(OpenCheckpoint, RefusesPathsThatLeaveTheFolder) {
  put(kIndex, R"({"weight_map":{"a":"../1.safetensors"}})");
  refuse(kIndex, "tensor 'a'", "lies outside the folder", "'../1.safetensors'");
}

TEST_F(OpenCheckpoint, SideFilesAreEverythingElse) {
  for (const char* name : {"tokenizer.json", "LICENSE", "encoding/a.py", "encoding/deep/b.txt",
                           "inference/config.json", "README.md"}) {
    put(name, "x");
  }
  for (const char* name :
       {"hf_quant_config.json", "nibblecast.json", ".gitattributes", ".cache/x", "encoding/__pycache__/a.pyc",
        "x.partial", "pytorch_model.bin", "original/x.pth", "x.pt", "x.gguf", "sub/y.safetensors",
        "pytorch_model.bin.index.json", "sub/model.safetensors.index.json", "encoding/.hidden"}) {
    put(name, "x");
  }
  EXPECT_THAT(open().side_files(), ElementsAre("LICENSE", "README.md", "encoding/a.py", "encoding/deep/b.txt",
                                               "inference/config.json", "tokenizer.json"));
}

TEST_F(OpenCheckpoint, SideFilesRefuseLinksThatLeadNowhereOrToFolders) {
  const Checkpoint checkpoint = open();
  fs::create_symlink("gone", folder_.path() / "tokenizer.json");
  expect_error(
      ErrorKind::kBadInput, [&] { checkpoint.side_files(); }, "tokenizer.json", "file that is missing");
  remove("tokenizer.json");
  fs::create_directory_symlink(".", folder_.path() / "loop");
  expect_error(
      ErrorKind::kBadInput, [&] { checkpoint.side_files(); }, "loop", "is a link to a folder");
}

TEST(TinyV4, Opens) {
  SKIP_WITHOUT_SHARED_MODEL(model, "tiny-v4");
  const Checkpoint checkpoint = Checkpoint::open(model, system_files());
  EXPECT_EQ(checkpoint.tensors().size(), 929u);
  EXPECT_EQ(checkpoint.shards().size(), 5u);
  EXPECT_EQ(checkpoint.data_bytes(), checkpoint.index_metadata()["total_size"].get<uint64_t>());
}

// The size of the largest release, in miniature files: what is slow or large here would be there.
TEST(ManyTensors, OpenInAMoment) {
  constexpr int kShards = 8, kTensors = 18'000;  // 64 shards of V4-Pro hold 2,267 tensors each
  TemporaryFolder folder;
  write(folder.path() / "config.json", "{}");
  std::string index;
  for (int shard = 0; shard < kShards; ++shard) {
    const std::string file = "model-" + std::to_string(shard) + ".safetensors";
    std::vector<Tensor> tensors;
    for (int i = 0; i < kTensors; ++i) {
      const std::string name =
          "layers." + std::to_string(shard) + ".ffn.experts." + std::to_string(i) + ".w1.weight";
      tensors.push_back({.name = name, .shape = {0, 16}, .offset = 0, .size_bytes = 0});
      index += (index.empty() ? "\"" : ",\"") + name + "\":\"" + file + '"';
    }
    write(folder.path() / file, write_safetensors_header(tensors, {}));
  }
  write(folder.path() / kIndex, R"({"weight_map":{)" + index + "}}");
  EXPECT_EQ(Checkpoint::open(folder.path(), system_files()).tensors().size(), size_t{kShards} * kTensors);
}

}  // namespace
}  // namespace nibblecast
