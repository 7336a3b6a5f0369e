// A model on an imitation of the Hub.
#include "remote/hub.h"

#include <gmock/gmock.h>

#include <fstream>

#include "remote/remote_testing.h"

namespace nibblecast::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class HubTest : public ::testing::Test {
 protected:
  HubTest() {
    write("model/config.json", "{}");
    write("model/tokenizer.json", std::string(3000, 't'));
    write("model/encoding/code.py", "print()");
    write("model/model.safetensors", std::string(200'000, 'w'));
  }

  void write(const std::string& name, const std::string& text) const {
    fs::create_directories(path(name).parent_path());
    std::ofstream(path(name), std::ios::binary) << text;
  }
  fs::path path(const std::string& name) const { return folder_.path() / name; }

  static std::string read(RemoteFolder& folder, const std::string& name) {
    return text_of(*folder.open(name, Access::kRead));
  }

  // What open_hub() or reading the weights fails with.
  static void expect_refused(HubServer& hub, ErrorKind kind, const std::string& words) {
    expect_error(
        kind, [&] { read(*open_hub(hub), "model.safetensors"); }, "hf://owner/tiny", words);
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(HubTest, AModelIsAFolder) {
  HubServer hub(path("model"));
  hub.token = "hf_secret";
  hub.page_entries = 1;
  const auto folder = open_hub(hub);
  EXPECT_EQ(folder->address(), std::string("hf://owner/tiny@") + HubServer::kCommit);
  EXPECT_THAT(folder->list(""),
              ElementsAre("config.json", "encoding", "model.safetensors", "tokenizer.json"));
  EXPECT_THAT(folder->list("encoding"), ElementsAre("code.py"));
  EXPECT_TRUE(folder->status("encoding")->is_folder);
  EXPECT_FALSE(folder->status("encodin"));
  EXPECT_EQ(folder->status("tokenizer.json")->size_bytes, 3000u);
  EXPECT_EQ(folder->status("model.safetensors")->version, hub.files()["model.safetensors"].oid);
  for (int time = 0; time < 2; ++time) {
    for (const auto& [name, file] : hub.files()) EXPECT_TRUE(read(*folder, name) == file.content) << name;
  }
  for (const auto& [name, file] : hub.files()) EXPECT_EQ(hub.most_often_sent(name), 1) << name;
  EXPECT_TRUE(hub.tokens_seen_by_store().empty());
  expect_error(
      ErrorKind::kBadInput, [&] { folder->open("nothing", Access::kRead); }, "the server has no such file");
  expect_error(
      ErrorKind::kRefused, [&] { folder->open("config.json", Access::kCreate); }, "never written to");
}

TEST_F(HubTest, LinksThatExpireAreAskedForAgain) {
  HubServer hub(path("model"));
  hub.link_uses = 2;
  const auto folder = open_hub(hub);
  const auto file = folder->open("model.safetensors", Access::kReadDirect);
  std::string text(200'000, '\0');
  for (size_t at = 0; at < text.size(); at += 20'000)
    file->read(at, std::as_writable_bytes(std::span(text).subspan(at, 20'000)));
  EXPECT_TRUE(text == hub.files()["model.safetensors"].content);
  EXPECT_EQ(hub.links(), 5u);
  EXPECT_EQ(hub.most_often_sent("model.safetensors"), 1);
}

TEST_F(HubTest, RefusalsSayWhatToDo) {
  HubServer hub(path("model"));
  hub.is_gated = true;
  expect_refused(hub, ErrorKind::kBadInput, "is gated, and no token is set");
  expect_refused(hub, ErrorKind::kBadInput, "`hf auth login`");
  hub.is_gated = false;
  hub.token = "hf_secret";
  HubSettings settings = settings_of(hub);
  const auto open = [&](const HubAddress& address) {
    open_hub_folder(settings, address, test_transport(), system_files());
  };
  settings.token = "hf_wrong";
  try {
    open(address_of(hub));
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("no such model, or it is private"));
    EXPECT_THAT(error.what(), ::testing::Not(HasSubstr("hf_")));
  }
  settings.token = "hf_secret";
  HubAddress other = address_of(hub);
  other.revision = "v9";
  expect_error(
      ErrorKind::kBadInput, [&] { open(other); }, "hf://owner/tiny@v9", "has no revision 'v9'");
  other.name = "none";
  expect_error(
      ErrorKind::kBadInput, [&] { open(other); }, "hf://owner/none@v9", "no such model");
}

TEST_F(HubTest, WhatIsNotTheHubIsRefused) {
  HubServer hub(path("model"));
  for (const char* body : {"{}", "<html>", "[1]", "{\"sha\": \"../..\"}"}) {
    hub.spoil_hub = [&](const ServerRequest&, ServerReply& reply) { reply.body = body; };
    expect_refused(hub, ErrorKind::kBadInput, "");
  }
  for (const char* name : {"/etc/passwd", "../x", "a/../b", "", "a//b"}) {
    hub.spoil_hub = [&](const ServerRequest& request, ServerReply& reply) {
      if (request.target.find("/tree/") != std::string::npos)
        reply.body = std::string(R"([{"type": "file", "size": 1, "path": ")") + name + "\"}]";
    };
    expect_refused(hub, ErrorKind::kBadInput, "an entry of its listing names no file");
  }
  hub.spoil_hub = [&](const ServerRequest&, ServerReply& reply) {
    reply.fields.emplace_back("Link", "<https://elsewhere.example/x>; rel=\"next\"");
  };
  expect_refused(hub, ErrorKind::kBadInput, "goes on at https://elsewhere.example");
}

TEST_F(HubTest, AFileThatChangedUnderItsRevisionIsRefused) {
  HubServer hub(path("model"));
  const auto folder = open_hub(hub);
  const auto file = folder->open("model.safetensors", Access::kReadDirect);
  std::string text(100, '\0');
  file->read(0, std::as_writable_bytes(std::span(text)));
  hub.change("model.safetensors", std::string(200'000, 'x'));
  hub.link_uses = 0;
  hub.spoil_store = [](const ServerRequest&, ServerReply& reply) { reply = {.status = 403}; };
  expect_error(
      ErrorKind::kBadInput, [&] { file->read(100, std::as_writable_bytes(std::span(text))); },
      "model.safetensors", "its checksum is another");
  hub.change("tokenizer.json", std::string(3000, 'x'));
  expect_error(
      ErrorKind::kBadInput, [&] { read(*folder, "tokenizer.json"); }, "its checksum is another");
  // The same name and checksum, other bytes.
  HubServer damaging(path("model"));
  damaging.spoil_hub = [](const ServerRequest& request, ServerReply& reply) {
    if (request.target.ends_with("config.json")) reply.body[0] = '[';
  };
  expect_error(
      ErrorKind::kBadInput, [&] { read(*open_hub(damaging), "config.json"); }, "arrived damaged");
}

TEST_F(HubTest, WhatTheCacheHoldsIsReadFromThere) {
  HubServer hub(path("model"));
  const std::string model = "cache/models--owner--tiny/";
  write(model + "blobs/" + hub.files()["model.safetensors"].oid, hub.files()["model.safetensors"].content);
  write(model + "snapshots/" + HubServer::kCommit + "/config.json", "{}");
  write(model + "blobs/" + hub.files()["tokenizer.json"].oid, "cut");
  HubSettings settings = settings_of(hub);
  settings.cache = path("cache");
  const auto folder = open_hub_folder(settings, address_of(hub), test_transport(), system_files());
  for (const auto& [name, file] : hub.files()) EXPECT_TRUE(read(*folder, name) == file.content) << name;
  EXPECT_EQ(hub.sent("model.safetensors"), 0u);
  EXPECT_EQ(hub.sent("config.json"), 0u);
  EXPECT_EQ(hub.sent("tokenizer.json"), 3000u);

  expect_error(
      ErrorKind::kBadInput, [&] { cached_snapshot(settings, address_of(hub), system_files()); },
      "is not in the Hub's cache", "hf download owner/tiny");
  write(model + "refs/main", HubServer::kCommit);
  EXPECT_EQ(cached_snapshot(settings, address_of(hub), system_files()),
            path(model + "snapshots/" + HubServer::kCommit));
}

TEST_F(HubTest, TheEnvironmentDecides) {
  const std::vector<const char*> names = {
      "HF_ENDPOINT",          "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",       "HF_TOKEN_PATH", "HF_HUB_OFFLINE",
      "TRANSFORMERS_OFFLINE", "HF_HOME",  "HF_HUB_DISABLE_IMPLICIT_TOKEN"};
  for (const char* name : names) ::unsetenv(name);
  const auto settings = [] { return hub_settings(system_files(), "/cache"); };
  ::setenv("HF_HOME", path("home").c_str(), 1);
  EXPECT_EQ(settings().endpoint, "https://huggingface.co");
  EXPECT_EQ(settings().token, "");
  EXPECT_FALSE(settings().is_offline);
  write("home/token", "hf_file\n");
  EXPECT_EQ(settings().token, "hf_file");
  ::setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1", 1);
  EXPECT_EQ(settings().token, "");
  ::setenv("HF_TOKEN", " hf_variable ", 1);
  EXPECT_EQ(settings().token, "hf_variable");
  ::setenv("HF_TOKEN", "hf\x01", 1);
  expect_error(ErrorKind::kUsage, settings, "characters that no token has");
  ::unsetenv("HF_TOKEN");
  ::setenv("HF_HUB_OFFLINE", "yes", 1);
  ::setenv("HF_ENDPOINT", "https://mirror.example/", 1);
  EXPECT_TRUE(settings().is_offline);
  EXPECT_EQ(settings().endpoint, "https://mirror.example");
  ::setenv("HF_ENDPOINT", "mirror", 1);
  expect_error(ErrorKind::kUsage, settings, "HF_ENDPOINT is no address");
  for (const char* name : names) ::unsetenv(name);
}

}  // namespace
}  // namespace nibblecast::testing
