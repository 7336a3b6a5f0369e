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

TEST_F(HubSource, AKilledRunGoesOn) {
  ASSERT_EQ(run_cli(quantize(local(), "local")).exit_code, 0);
  hub_.spoil_store = [](const ServerRequest&, ServerReply&) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  };
  size_t kills = 0;
  for (size_t bytes = 4'000; kills < 3; bytes *= 8, ++kills) {
    CliProcess process(quantize(address_, "remote"));
    const auto journal = path("remote") + "/.nibblecast/journal";
    while (!process.ended() && (!fs::exists(journal) || fs::file_size(journal) < bytes))
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    if (process.ended()) break;
    process.signal(SIGKILL);
    process.wait();
  }
  EXPECT_GT(kills, 0u);
  hub_.spoil_store = {};
  const CliResult last = run_cli(quantize(address_, "remote"));
  ASSERT_EQ(last.exit_code, 0) << last.err;
  expect_same("local", "remote");
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
