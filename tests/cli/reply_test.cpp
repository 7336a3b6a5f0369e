// --json: one object on stdout, whatever happens.
#include "run_cli.h"

namespace nibblecast::testing {
namespace {

using ::testing::HasSubstr;

class Reply : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }

  // What stdout holds is one object, which says how the command ended as the process does.
  Json reply_of(std::vector<std::string> arguments, int exit_code) {
    const std::string command = arguments[0];
    arguments.push_back("--json");
    const CliResult result = run_cli(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    const Json reply = Json::parse(result.out, nullptr, false);
    if (!reply.is_object()) {
      ADD_FAILURE() << "no object: " << result.out;
      return Json::object();
    }
    EXPECT_EQ(reply["command"], command);
    EXPECT_EQ(reply["format"], "nibblecast." + command + "/2");
    EXPECT_EQ(reply["ok"], Json(exit_code == 0));
    EXPECT_EQ(reply["exit_code"], Json(exit_code));
    EXPECT_TRUE(reply["errors"].is_array() && reply["warnings"].is_array());
    return reply;
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(Reply, EveryCommandHasTheSameFrame) {
  const std::string source = tiny_checkpoint().string(), texts = write_texts(path("")).string();
  reply_of({"plan", source, "--calib", texts}, 0);
  reply_of({"plan", source, "--explain", "layers.0.ffn.experts.0.w1"}, 0);
  reply_of({"inspect", source}, 0);
  reply_of({"calibrate", source, "--calib", texts, "-o", path("amax"), "--quiet"}, 0);
  reply_of({"quantize", source, path("out"), "--amax", path("amax"), "--quiet"}, 0);
  reply_of({"status", path("out")}, 0);
  reply_of({"status", path("amax")}, 0);
  reply_of({"verify", source, path("out"), "--quiet"}, 0);
  reply_of({"verify", "--checksums", path("out"), "--quiet"}, 0);
  reply_of({"verify", "--source", source, "--quiet"}, 6);  // nothing is known of it
  reply_of({"convert", path("out"), path("back"), "--to", "mxfp4", "--quiet"}, 0);
  reply_of({"dequantize", source, path("wide"), "--quiet"}, 0);
  reply_of({"synth", "v4-tiny", path("new"), "--quiet"}, 0);
}

TEST_F(Reply, AnErrorHasItsParts) {
  const Json missing = reply_of({"plan", path("absent")}, 3)["errors"];
  ASSERT_EQ(missing.size(), 1u);
  EXPECT_EQ(missing[0]["kind"], "bad input");
  EXPECT_EQ(missing[0]["file"], path("absent"));
  EXPECT_EQ(missing[0]["message"], "there is no such folder");
  const Json garbage = reply_of({"inspect", write_texts(path("")).string()}, 3)["errors"];
  ASSERT_EQ(garbage.size(), 1u);
  EXPECT_TRUE(garbage[0].contains("offset") || garbage[0].contains("found")) << garbage[0];
}

TEST_F(Reply, UsageIsAnErrorToo) {
  EXPECT_THAT(reply_of({"plan", "--calib-sise", "3"}, 2)["errors"][0]["hint"].get<std::string>(),
              HasSubstr("--calib-size"));
  const CliResult unknown = run_cli({"quantise", "--json"});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_EQ(Json::parse(unknown.out)["errors"][0]["kind"], "usage");
}

TEST_F(Reply, RefusalsAndWarningsHaveTheirRemedies) {
  const std::string source = tiny_checkpoint().string(), texts = write_texts(path("")).string();
  const Json refused =
      reply_of({"quantize", source, path("out"), "--calib", texts, "--memory", "1M", "--quiet"}, 5)["errors"];
  ASSERT_FALSE(refused.empty());
  EXPECT_EQ(refused[0]["kind"], "refused");
  EXPECT_TRUE(refused[0].contains("hint")) << refused[0];
  const Json warned = reply_of({"plan", source, "--calib", texts + ":900"}, 0)["warnings"];
  ASSERT_FALSE(warned.empty());
  EXPECT_TRUE(warned[0].contains("message"));
}

TEST_F(Reply, TheFirstRunAndTheSecondSpeakAlike) {
  const std::string source = tiny_checkpoint().string();
  const std::vector<std::string> command = {"quantize", source, path("out"), "--input-scale", "1", "--quiet"};
  EXPECT_EQ(reply_of(command, 0)["finished"], true);
  const Json again = reply_of(command, 0);
  EXPECT_EQ(again["finished"], true);
  EXPECT_EQ(again["destination"], path("out"));
}

TEST_F(Reply, WithoutJsonThereIsNone) {
  EXPECT_EQ(run_cli({"plan", path("absent")}).out, "");
  EXPECT_EQ(run_cli({"plan", "--help", "--json"}).out.find('{'), std::string::npos);
}

}  // namespace
}  // namespace nibblecast::testing
