// Models on the Hub, through every command, against an imitation of it.
#include <gmock/gmock.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "remote/hub_server.h"
#include "run_cli.h"

namespace nibblecast::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kToken = "hf_nobody_may_see_this";

// The Hub of the programs that a test runs.
class HubSource : public ::testing::Test {
 protected:
  HubSource() : hub_(tiny_checkpoint()) {
    hub_.token = kToken;
    set("HF_ENDPOINT", hub_.endpoint());
    set("HF_TOKEN", kToken);
    set("HF_HOME", path("home"));
    set("no_proxy", "127.0.0.1,localhost");
  }
  ~HubSource() override {
    for (const std::string& name : set_) ::unsetenv(name.c_str());
  }

  void set(const std::string& name, const std::string& value) {
    ::setenv(name.c_str(), value.c_str(), 1);
    set_.push_back(name);
  }
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string texts() const { return write_texts(folder_.path()).string(); }
  static std::string local() { return tiny_checkpoint().string(); }

  std::vector<std::string> quantize(const std::string& source, const std::string& to) const {
    return {"quantize", source, path(to), "--calib", texts(), "--base-model", "owner/tiny", "--quiet"};
  }

  static std::vector<std::string> with(std::vector<std::string> command,
                                       const std::vector<std::string>& more) {
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }
  // Where the Hub's client would look for the model's files in a cache.
  std::string snapshot(const std::string& cache) const {
    return path(cache) + "/models--owner--tiny/snapshots/" + HubServer::kCommit + "/";
  }

  // Every file but the record, which holds times.
  void expect_same(const std::string& a, const std::string& b) const {
    const auto left = folder_contents(path(a)), right = folder_contents(path(b));
    for (const auto& [name, content] : left) {
      if (name == "nibblecast.json" || name.starts_with("report.")) continue;  // times
      ASSERT_TRUE(right.contains(name)) << name;
      EXPECT_TRUE(content == right.at(name)) << name << " differs";
    }
    EXPECT_EQ(left.size(), right.size());
    EXPECT_GT(left.size(), 3u);
  }

  void expect_no_token(const CliResult& result) const {
    EXPECT_THAT(result.out + result.err, Not(HasSubstr(kToken)));
  }

  const std::string address_ = "hf://owner/tiny";
  HubServer hub_;

 private:
  TemporaryFolder folder_;
  std::vector<std::string> set_;
};

TEST_F(HubSource, InspectAndPlanReadHeadersAlone) {
  Json here = run_json({"inspect", local()}), there = run_json({"inspect", address_});
  for (const char* place : {"path", "folder", "shards"}) here.erase(place), there.erase(place);
  EXPECT_EQ(here, there);
  const Json plan = run_json({"plan", address_});
  EXPECT_EQ(plan["source"]["path"], address_ + "@" + HubServer::kCommit);
  EXPECT_EQ(plan["source"]["identity"], run_json({"plan", local()})["source"]["identity"]);
  const std::string name = "layers.0.attn_norm.weight";
  EXPECT_EQ(run_json({"inspect", address_, "--tensor", name})["values"],
            run_json({"inspect", local(), "--tensor", name})["values"]);
  EXPECT_TRUE(hub_.tokens_seen_by_store().empty());
}

TEST_F(HubSource, QuantizeMakesTheSameBytesAndAsksForEachOnce) {
  hub_.link_uses = 20;
  const CliResult made = run_cli(quantize(address_, "remote"));
  ASSERT_EQ(made.exit_code, 0) << made.err;
  for (const auto& [name, file] : hub_.files()) {
    EXPECT_LE(hub_.most_often_sent(name), 1) << name;
    EXPECT_TRUE(!file.is_large || hub_.sent(name) == file.content.size()) << name;
  }
  EXPECT_TRUE(hub_.tokens_seen_by_store().empty());
  expect_no_token(made);
  for (const auto& [name, content] : folder_contents(path("remote")))
    EXPECT_THAT(content, Not(HasSubstr(kToken)));

  const CliResult again = run_cli(quantize(local(), "local"));
  ASSERT_EQ(again.exit_code, 0) << again.err;
  expect_same("local", "remote");
  const Json record = Json::parse(read_file(path("remote") + "/nibblecast.json"));
  EXPECT_EQ(record["source"]["hub"], "owner/tiny");
  EXPECT_EQ(record["source"]["name"], "tiny");
  const Json verified = run_json({"verify", address_, path("remote"), "--quiet"});
  EXPECT_EQ(verified["ok"], true) << verified;
  EXPECT_EQ(run_cli({"compare", address_, path("remote"), "--quiet"}).exit_code,
            run_cli({"compare", local(), path("remote"), "--quiet"}).exit_code);
}

TEST_F(HubSource, OtherCommandsReadItToo) {
  EXPECT_EQ(run_cli({"dequantize", address_, path("plain_remote"), "--base-model", "owner/tiny", "--quiet"})
                .exit_code,
            0);
  EXPECT_EQ(run_cli({"dequantize", local(), path("plain_local"), "--base-model", "owner/tiny", "--quiet"})
                .exit_code,
            0);
  expect_same("plain_local", "plain_remote");
  for (const auto& [source, to] : {std::pair(address_, "remote.amax"), std::pair(local(), "local.amax")})
    run_json({"calibrate", source, "--calib", texts(), "-o", path(to), "--quiet"});
  EXPECT_TRUE(read_file(path("remote.amax")) == read_file(path("local.amax")));
}

TEST_F(HubSource, KeepSourceStoresWhatStreamsBy) {
  const CliResult made = run_cli(with(quantize(address_, "remote"), {"--keep-source", path("kept")}));
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("kept source"));
  EXPECT_THAT(made.err, Not(HasSubstr("--keep-source")));
  expect_no_token(made);
  for (const auto& [name, file] : hub_.files()) {
    EXPECT_LE(hub_.most_often_sent(name), 1) << name;
    EXPECT_TRUE(read_file(snapshot("kept") + name) == file.content) << name;
  }
  ASSERT_EQ(run_cli(quantize(local(), "local")).exit_code, 0);
  expect_same("local", "remote");
  const size_t links = hub_.links();
  const CliResult again = run_cli(with(quantize(address_, "again"), {"--keep-source", path("kept")}));
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(hub_.links(), links);
  expect_same("local", "again");
  set("HF_HUB_CACHE", path("kept"));
  set("HF_HUB_OFFLINE", "1");
  EXPECT_EQ(run_json({"plan", address_})["source"]["identity"],
            run_json({"plan", local()})["source"]["identity"]);
}

TEST_F(HubSource, WhatOnlyAPartWasReadOfIsSaid) {
  const CliResult made = run_cli({"calibrate", address_, "--calib", texts(), "-o", path("amax"),
                                  "--keep-source", path("kept"), "--quiet"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_THAT(made.err, HasSubstr("--keep-source: this command read only parts of 1 file"));
  EXPECT_THAT(made.err, HasSubstr("hf download owner/tiny --revision " + std::string(HubServer::kCommit)));
  EXPECT_FALSE(fs::exists(path("kept") + "/models--owner--tiny/refs/main"));
  const CliResult refused =
      run_cli({"compare", local(), hub_.endpoint() + "/x/y/z", "--keep-source", path("kept"), "--quiet"});
  EXPECT_EQ(refused.exit_code, 2) << refused.err;
}

TEST_F(HubSource, AKilledRunGoesOn) {
  ASSERT_EQ(run_cli(quantize(local(), "local")).exit_code, 0);
  hub_.spoil_store = [](const ServerRequest&, ServerReply&) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  };
  const std::vector<std::string> command =
      with(quantize(address_, "remote"), {"--keep-source", path("kept")});
  size_t kills = 0;
  for (size_t bytes = 4'000; kills < 3; bytes *= 8, ++kills) {
    CliProcess process(command);
    const auto journal = path("remote") + "/.nibblecast/journal";
    while (!process.ended() && (!fs::exists(journal) || fs::file_size(journal) < bytes))
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    if (process.ended()) break;
    process.signal(SIGKILL);
    process.wait();
  }
  EXPECT_GT(kills, 0u);
  hub_.spoil_store = {};
  const CliResult last = run_cli(command);
  ASSERT_EQ(last.exit_code, 0) << last.err;
  expect_same("local", "remote");
  for (const auto& [name, file] : hub_.files())
    EXPECT_TRUE(read_file(snapshot("kept") + name) == file.content) << name;
}

TEST_F(HubSource, VerifyHoldsAModelAgainstTheHubsChecksums) {
  const Json report = run_json({"verify", "--source", address_, "--quiet"});
  EXPECT_EQ(report["ok"], true);
  EXPECT_EQ(report["files"], hub_.files().size());
  EXPECT_EQ(report["unchecked"], Json::array());
  for (const auto& [name, file] : hub_.files()) EXPECT_LE(hub_.most_often_sent(name), 1) << name;
  hub_.spoil_store = [](const ServerRequest& request, ServerReply& reply) {
    if (request.target.find("00002-of") != std::string::npos) reply.body.back() ^= 1;
  };
  const CliResult damaged = run_cli({"verify", "--source", address_, "--quiet"});
  EXPECT_EQ(damaged.exit_code, 6) << damaged.err;
  EXPECT_THAT(damaged.out, HasSubstr("model-00002-of-00008.safetensors: is damaged: the Hub has"));
}

TEST_F(HubSource, AnOutputOnTheHubIsVerified) {
  ASSERT_EQ(run_cli(quantize(local(), "made")).exit_code, 0);
  HubServer hub(path("made"), "owner/made");
  set("HF_ENDPOINT", hub.endpoint());
  set("HF_TOKEN", "hf_any");
  const Json report = run_json({"verify", local(), "hf://owner/made", "--quiet"});
  EXPECT_EQ(report["ok"], true) << report;
  const Json own = run_json({"verify", "--checksums", "hf://owner/made", "--quiet"});
  EXPECT_EQ(own["ok"], true) << own;
  EXPECT_GT(own["tensors"], 700);
  hub.spoil_store = [](const ServerRequest& request, ServerReply& reply) {
    if (request.target.find("00003-of") != std::string::npos && reply.body.size() > 1000)
      reply.body[reply.body.size() - 1] ^= 1;
  };
  EXPECT_EQ(run_cli({"verify", local(), "hf://owner/made", "--quiet"}).exit_code, 6);
  EXPECT_EQ(run_cli({"verify", "--checksums", "hf://owner/made", "--quiet"}).exit_code, 6);
}

// What --calib and --text name is fetched once, and only the file that is needed.
TEST_F(HubSource, DataSetsAreFetched) {
  const auto calibrate = [&](const std::string& name) {
    return std::vector<std::string>{"calibrate", local(), "--calib",    name,     "--calib-size",
                                    "4",         "-o",    path("amax"), "--quiet"};
  };
  const auto refused = [&](const std::string& name, const std::string& words) {
    const CliResult result = run_cli(calibrate(name));
    EXPECT_NE(result.exit_code, 0);
    EXPECT_THAT(result.err, HasSubstr(words));
    EXPECT_THAT(result.err, HasSubstr("`hf download abisee/cnn_dailymail --repo-type dataset --include "));
    expect_no_token(result);
  };
  refused("cnn_dailymail", "cannot be fetched: hf://datasets/abisee/cnn_dailymail");
  std::string records;
  for (int index = 0; index < 8; ++index)
    records +=
        Json{{"article", "Text " + std::to_string(index) + ": " + std::string(200, 'x')}}.dump() + "\n";
  fs::create_directories(path("data") + "/3.0.0");
  for (const char* name :
       {"train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "test-00000-of-00001.jsonl"})
    write_file(path("data") + "/3.0.0/" + name, records);
  HubServer hub(path("data"), "datasets/abisee/cnn_dailymail");
  hub.token = kToken;
  set("HF_ENDPOINT", hub.endpoint());
  set("HF_HUB_OFFLINE", "1");
  refused("abisee/cnn_dailymail", "is not in the Hub's cache");
  set("HF_HUB_OFFLINE", "0");
  const CliResult made = run_cli(calibrate("abisee/cnn_dailymail"));
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_THAT(made.err,
              HasSubstr("fetching cnn_dailymail into the Hub's cache: 3.0.0/train-00000-of-00002.jsonl"));
  expect_no_token(made);
  EXPECT_EQ(hub.sent("3.0.0/train-00000-of-00002.jsonl"), records.size());
  EXPECT_EQ(hub.sent("3.0.0/train-00001-of-00002.jsonl"), 0u);
  EXPECT_TRUE(hub.tokens_seen_by_store().empty());
  const std::string file = "/hub/datasets--abisee--cnn_dailymail/snapshots/" +
                           std::string(HubServer::kCommit) + "/3.0.0/train-00000-of-00002.jsonl";
  EXPECT_TRUE(read_file(path("home") + file) == records);
  const size_t requests = hub.requests();
  EXPECT_EQ(run_cli({"evaluate", local(), "--text", "cnn_dailymail", "--text-size", "2", "--text-rows",
                     "docs", "--quiet"})
                .exit_code,
            0);
  EXPECT_EQ(hub.requests(), requests);
}

TEST_F(HubSource, RefusalsSayWhatToDo) {
  const auto refused = [&](const std::vector<std::string>& command, int exit_code, const std::string& words) {
    const CliResult result = run_cli(command);
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    EXPECT_THAT(result.err, HasSubstr(words));
    expect_no_token(result);
  };
  refused({"plan", "hf://owner/none"}, 3, "the Hub has no such model, or it is private");
  refused({"plan", address_ + "@v9"}, 3, "has no revision 'v9'");
  refused({"quantize", local(), "hf://owner/new", "--calib", texts()}, 5, "servers are only read");
  hub_.is_gated = true;
  refused({"plan", address_}, 3, "is gated, and the token's account has no access");
  set("HF_HUB_OFFLINE", "1");
  refused({"plan", address_}, 3, "is not in the Hub's cache");
  refused({"plan", "https://127.0.0.1:1/x"}, 3, "HF_HUB_OFFLINE forbids to ask it");
}

TEST_F(HubSource, OfflineReadsTheCache) {
  const std::string model = path("home") + "/hub/models--owner--tiny/";
  fs::create_directories(model + "refs");
  write_file(model + "refs/main", HubServer::kCommit);
  fs::create_directories(model + "snapshots");
  fs::copy(local(), model + "snapshots/" + HubServer::kCommit, fs::copy_options::recursive);
  const size_t before = hub_.requests();
  set("HF_HUB_OFFLINE", "1");
  EXPECT_EQ(run_json({"plan", address_})["source"]["identity"],
            run_json({"plan", local()})["source"]["identity"]);
  EXPECT_EQ(hub_.requests(), before);
}

}  // namespace
}  // namespace nibblecast::testing
