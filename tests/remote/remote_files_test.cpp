// Whole jobs over a model that is on a server.
#include "remote/remote_files.h"

#include <gmock/gmock.h>

#include <atomic>
#include <fstream>
#include <random>

#include "checkpoint/fetch_ahead.h"
#include "pipeline/line_probe.h"
#include "pipeline/pipeline_testing.h"
#include "pipeline/reader.h"
#include "pipeline/small_models.h"
#include "remote/remote_testing.h"

namespace nibblecast::testing {
namespace {

namespace fs = std::filesystem;

class RemoteFilesTest : public ::testing::Test {
 protected:
  fs::path path(const std::string& name) const { return folder_.path() / name; }

  void SetUp() override { smallest(small_v4()).make(path("source"), system_files()); }

  // Cast, without a forward pass.
  static void make(const Checkpoint& source, const fs::path& destination) {
    const Plan plan = make_plan(source, {});
    AmaxFile amax = plain_amax(plan);
    const Activations activations{
        .rows = {}, .amax = std::move(amax), .origin = "amax", .identity = "amax", .products = {}};
    run_job(source, plan, activations, destination);
  }

  Checkpoint open(const HubServer& hub) {
    return Checkpoint::open(files_.mount(open_hub(hub)).address(), files_);
  }

  static std::vector<std::string> shards_of(HubServer& hub) {
    std::vector<std::string> names;
    for (const auto& [name, file] : hub.files())
      if (file.is_large) names.push_back(name);
    return names;
  }

  RemoteFiles files_{system_files()};

 private:
  TemporaryFolder folder_;
};

TEST_F(RemoteFilesTest, AJobMakesTheSameBytesAndAsksForEachOnce) {
  make(Checkpoint::open(path("source"), system_files()), path("local"));
  HubServer hub(path("source"));
  hub.link_uses = 7;
  RemoteFolder& folder = files_.mount(open_hub(hub));
  folder.fetch_headers(shards_of(hub));
  make(Checkpoint::open(folder.address(), files_), path("remote"));
  auto local = folder_hashes(path("local")), remote = folder_hashes(path("remote"));
  local.erase("README.md");  // names the folder
  remote.erase("README.md");
  EXPECT_EQ(local, remote);
  EXPECT_GT(local.size(), 3u);
  for (const auto& [name, file] : hub.files()) EXPECT_LE(hub.most_often_sent(name), 1) << name;
  for (const std::string& shard : shards_of(hub))
    EXPECT_EQ(hub.sent(shard), hub.files()[shard].content.size()) << shard;
}

TEST_F(RemoteFilesTest, WhatIsFetchedAheadIsNotAskedForAgain) {
  HubServer hub(path("source"));
  const Checkpoint source = open(hub);
  std::vector<TensorPart> parts;
  for (const Tensor& tensor : source.tensors())
    parts.push_back({&tensor, std::min<uint64_t>(tensor.size_bytes, 999)});
  const size_t before = hub.requests();
  fetch_ahead(source, parts);
  const size_t fetched = hub.requests();
  EXPECT_LT(fetched - before, parts.size());
  const Checkpoint local = Checkpoint::open(path("source"), system_files());
  TensorReader here(local), there(source);
  for (const TensorPart& part : parts) {
    std::vector<std::byte> a(part.size_bytes), b(part.size_bytes);
    here.read(*local.find(part.tensor->name), 0, a);
    there.read(*part.tensor, 0, b);
    EXPECT_EQ(a, b) << part.tensor->name;
  }
  EXPECT_EQ(hub.requests(), fetched);
  for (const auto& [name, file] : hub.files()) EXPECT_LE(hub.most_often_sent(name), 1) << name;
}

TEST_F(RemoteFilesTest, AChangedShardIsAnotherJob) {
  HubServer hub(path("source"));
  const Checkpoint source = open(hub);
  const JobDescription before = describe_job(source, Json::object(), Json::object());
  const std::string shard = shards_of(hub).front();
  EXPECT_EQ(before.source["path"], std::string("hf://owner/tiny@") + HubServer::kCommit);
  EXPECT_EQ(before.source["shards"][0]["version"], hub.files()[shard].oid);
  std::string content = hub.files()[shard].content;
  content.back() ^= 1;
  HubServer later(path("source"));
  later.change(shard, content);
  const JobDescription after = describe_job(open(later), Json::object(), Json::object());
  require_same_job(before, before, "out");
  expect_error(
      ErrorKind::kRefused, [&] { require_same_job(before, after, "out"); }, shard,
      "was changed since this job began");
}

TEST_F(RemoteFilesTest, ServersAreOnlyRead) {
  HubServer hub(path("source"));
  const fs::path folder = files_.mount(open_hub(hub)).address();
  for (const auto& change : std::vector<std::function<void()>>{
           [&] { files_.remove(folder / "config.json"); },
           [&] { files_.rename(folder / "config.json", "x"); }, [&] { files_.create_folders(folder / "x"); },
           [&] { files_.copy(path("source") / "config.json", folder / "x"); },
           [&] { files_.open(folder / "config.json", Access::kUpdateDirect); },
           [&] { files_.try_lock(folder / "x", ""); }})
    expect_error(ErrorKind::kRefused, change, "never written to");
  expect_error(
      ErrorKind::kRefused,
      [&] {
        check_destination(files_, path("source"), "hf://owner/other",
                          describe_job(open(hub), Json::object(), Json::object()));
      },
      "servers are only read");
  files_.copy(folder / "config.json", path("copied"));
  EXPECT_EQ(read_text(files_, path("copied"), 1 << 20), hub.files()["config.json"].content);
  EXPECT_EQ(files_.real_path(folder / "x" / ".."), files_.real_path(folder));
}

// A folder of any server, at addresses of its own.
TEST_F(RemoteFilesTest, AServerWithoutAListing) {
  HubServer hub(path("source"));
  std::atomic<int> versions = 0;
  HttpServer server([&](const ServerRequest& request) -> ServerReply {
    const auto file = hub.files().find(request.target.substr(std::string("/models/tiny/").size()));
    if (file == hub.files().end()) return {.status = 404};
    const std::string& content = file->second.content;
    const auto [first, last] = *request.range;
    const std::string body = content.substr(first, last - first + 1);
    return {.status = 206,
            .fields = {{"ETag", "\"" + std::to_string(versions) + "\""},
                       {"Content-Range", "bytes " + std::to_string(first) + "-" +
                                             std::to_string(first + body.size() - 1) + "/" +
                                             std::to_string(content.size())}},
            .body = body};
  });
  RemoteFolder& folder =
      files_.mount(open_server_folder(server.url() + "/models/tiny", test_transport(), quick_tries()));
  const Checkpoint source = Checkpoint::open(folder.address(), files_);
  EXPECT_EQ(folder_name(source.folder()), "tiny");
  make(Checkpoint::open(path("source"), system_files()), path("local"));
  make(source, path("remote"));
  auto local = folder_hashes(path("local")), remote = folder_hashes(path("remote"));
  for (const auto& [name, hash] : local) {
    const bool is_made = name.ends_with(".safetensors") || name.ends_with(".json");
    EXPECT_TRUE(!is_made || remote[name] == hash) << name;
  }
  versions = 1;
  expect_error(
      ErrorKind::kBadInput,
      [&] {
        const std::string shard = source.shards().back().name;
        std::vector<std::byte> bytes(source.shards().back().size_bytes);
        files_.open(source.folder() / shard, Access::kReadDirect)->read(0, bytes);
      },
      "its ETag is another");
}

TEST_F(RemoteFilesTest, ALineIsMeasured) {
  constexpr size_t kBytes = 40 << 20;
  constexpr double kRate = 100e6;
  const std::string header = R"({"w":{"dtype":"U8","shape":[41943040],"data_offsets":[0,41943040]}})";
  uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof length);
  file += header + std::string(kBytes, 'w');
  fs::create_directories(path("large"));
  std::ofstream(path("large/model.safetensors"), std::ios::binary) << file;
  HubServer hub(path("large"));
  hub.is_counting = false;
  hub.set_line({.delay_seconds = 0.02, .bytes_per_second = kRate});
  const auto rate = probe_line(Checkpoint::open(files_.mount(open_hub(hub)).address(), files_, false));
  ASSERT_TRUE(rate);
  EXPECT_LT(*rate, 1.2 * kRate);
  EXPECT_GT(*rate, 0.2 * kRate);  // of a busy machine
  EXPECT_FALSE(probe_line(Checkpoint::open(path("large"), system_files(), false)));
}

// What a network and servers do, at random: the right bytes, or an error that says why.
void spoil(std::mt19937& random, ServerReply& reply) {
  switch (random() % 30) {
    case 0:
      reply.drop = true;
      break;
    case 1:
    case 2:
      reply.cut_after = random() % (reply.body.size() + 1);
      break;
    case 3:
      reply = {.status = 503};
      break;
    case 4:
      reply = {.status = 429, .fields = {{"Retry-After", "0"}}};
      break;
    case 5:
      reply = {.status = 403};
      break;
    case 6:
      if (reply.status == 206 && random() % 10 == 0) reply.fields[0].second = "bytes 0-0/1000000000000";
      break;
    case 7:
      if (reply.status == 206) reply.body.pop_back();
      break;
    default:
      break;
  }
}

TEST_F(RemoteFilesTest, RandomFaultsGiveTheRightBytesOrAnError) {
  int right = 0, wrong = 0;
  HubServer hub(path("source"));
  hub.is_counting = false;
  hub.token = "hf_secret";
  std::mt19937 random;
  std::mutex mutex;
  hub.spoil_store = hub.spoil_hub = [&](const ServerRequest&, ServerReply& reply) {
    const std::lock_guard lock(mutex);
    spoil(random, reply);
  };
  for (unsigned seed = 0; seed < 200; ++seed) {
    {
      const std::lock_guard lock(mutex);
      random.seed(seed);
    }
    try {
      const auto opened = open_hub(hub);
      std::vector<std::unique_ptr<File>> shards;
      std::vector<ReadUnit> units;
      const std::vector<std::string> names = shards_of(hub);
      for (const std::string& name : names) {
        const uint64_t size = hub.files()[name].content.size();
        for (uint64_t at = 0; at < size; at += 50'001) {
          units.push_back({{.file = static_cast<uint32_t>(shards.size()),
                            .begin = at,
                            .size_bytes = std::min<uint64_t>(50'001, size - at)}});
        }
        shards.push_back(opened->open(name, Access::kReadDirect));
      }
      Reader reader(std::move(shards), units, 1 << 20);
      for (const ReadUnit& unit : units) {
        const Reader::Loaded loaded = reader.next();
        const FileRange& range = unit[0];
        const std::string_view bytes(reinterpret_cast<const char*>(loaded[0].data()), loaded[0].size());
        ASSERT_TRUE(bytes == hub.files()[names[range.file]].content.substr(range.begin, range.size_bytes));
      }
      ++right;
    } catch (const Error& error) {
      EXPECT_TRUE(error.kind() == ErrorKind::kIo || error.kind() == ErrorKind::kBadInput) << error.what();
      EXPECT_EQ(std::string(error.what()).find(hub.token), std::string::npos);
      ++wrong;
    }
  }
  EXPECT_GT(right, 20);
  EXPECT_GT(wrong, 0);
  EXPECT_TRUE(hub.tokens_seen_by_store().empty());
}

// Stored on its way, too; where the job fails, the same job goes on over a better line.
TEST_F(RemoteFilesTest, AJobUnderFaultsEndsWithTheSameBytes) {
  make(Checkpoint::open(path("source"), system_files()), path("local"));
  auto local = folder_hashes(path("local"));
  local.erase("README.md");  // names the folder
  HubServer hub(path("source"));
  hub.is_counting = false;
  hub.token = "hf_secret";
  std::mt19937 random;
  std::mutex mutex;
  std::atomic<bool> is_bad = true;
  hub.spoil_store = hub.spoil_hub = [&](const ServerRequest&, ServerReply& reply) {
    const std::lock_guard lock(mutex);
    if (is_bad) spoil(random, reply);
  };
  for (unsigned seed = 0; seed < 16; ++seed) {
    random.seed(seed);
    const fs::path out = path("out" + std::to_string(seed)), kept = path("kept" + std::to_string(seed));
    const auto run = [&] {
      HubSettings settings = settings_of(hub);
      settings.cache = kept;
      settings.keeps = true;
      RemoteFiles files(system_files());
      RemoteFolder& folder =
          files.mount(open_hub_folder(settings, address_of(hub), test_transport(), system_files()));
      make(Checkpoint::open(folder.address(), files), out);
      folder.store()->finish();
    };
    is_bad = true;
    try {
      run();
    } catch (const Error& error) {
      EXPECT_TRUE(error.kind() == ErrorKind::kIo || error.kind() == ErrorKind::kBadInput) << error.what();
      is_bad = false;
      run();
    }
    auto made = folder_hashes(out);
    made.erase("README.md");
    EXPECT_EQ(made, local) << seed;
    const fs::path snapshot = kept / "models--owner--tiny/snapshots" / HubServer::kCommit;
    for (const std::string& shard : shards_of(hub))
      EXPECT_TRUE(read_text(system_files(), snapshot / shard, 1 << 30) == hub.files()[shard].content)
          << shard;
  }
  EXPECT_TRUE(hub.tokens_seen_by_store().empty());
}

}  // namespace
}  // namespace nibblecast::testing
