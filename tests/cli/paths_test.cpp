// One place, however it is spelled: every path of every command.
#include "cli/paths.h"

#include <functional>

#include "run_cli.h"

namespace nibblecast::testing {
namespace {

namespace fs = std::filesystem;

TEST(NormalPath, HasNoPartsThatLeadNowhere) {
  const TemporaryFolder folder;
  fs::create_directories(folder.path() / "real" / "inner");
  fs::create_directory_symlink(folder.path() / "real" / "inner", folder.path() / "link");
  const std::string top = folder.path().string();
  const std::pair<std::string, std::string> cases[] = {
      {"", ""},
      {"out", "out"},
      {"out/", "out"},
      {"out//", "out"},
      {"out/.", "out"},
      {"out/./", "out"},
      {"out/.//./", "out"},
      {"a//b", "a/b"},
      {"a/./b", "a/b"},
      {"a/../b", "b"},
      {"a/b/../../c/", "c"},
      {"a/..", "."},
      {".", "."},
      {"./", "."},
      {"..", ".."},
      {"../", ".."},
      {"../../x/..", "../.."},
      {"a/../..", ".."},
      {"./out", "./out"},
      {"./out/", "./out"},
      {"././out", "./out"},
      {"./../out", "../out"},
      {"/", "/"},
      {"//", "/"},
      {"/..", "/"},
      {"/a/..", "/"},
      {"//a//b/", "/a/b"},
      {" ", " "},
      {"...", "..."},
      {top + "/real/../real/inner/", top + "/real/inner"},
      {top + "/none/../real", top + "/real"},
      // Up from a link is where it leads to.
      {top + "/link/..", top + "/link/.."},
      {top + "/link/../x/..", top + "/link/.."},
      {top + "/link/", top + "/link"},
  };
  for (const auto& [given, normal] : cases) EXPECT_EQ(normal_path(given), normal) << given;
}

class Spellings : public ::testing::Test {
 protected:
  Spellings() {
    fs::create_directories(path("real"));
    fs::create_directories(path("other"));
    fs::create_directory_symlink(path("real"), path("link"));
    write_file(path("real/ids.jsonl"), "{\"input_ids\": " + Json(std::vector<int>(32, 7)).dump() + "}\n");
    write_file(path("real/recipe.yaml"), "rules:\n  - {modules: \"*.ffn.experts.*\", format: nvfp4}\n");
    succeed({"synth", "v4-tiny", path("real/source"), "--layers", "0..0", "--experts", "4"});
  }

  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }

  // Of `name` in "real".
  std::vector<std::string> spellings(const std::string& name) const {
    const std::string absolute = path("real/" + name);
    const std::string relative = fs::proximate(absolute).string();
    return {absolute,
            absolute + "/",
            absolute + "//",
            absolute + "/.",
            absolute + "/./",
            path("real//./" + name),
            path("other/../real/" + name + "/"),
            path("none/../real/" + name),
            path("link/" + name + "/"),
            path("link/../real/" + name + "//"),
            relative,
            "./" + relative + "/"};
  }

  void succeed(std::vector<std::string> arguments) const {
    arguments.emplace_back("--quiet");
    const CliResult result = run_cli(arguments);
    std::string line;
    for (const std::string& argument : arguments) line += argument + " ";
    ASSERT_EQ(result.exit_code, 0) << line << "\n" << result.err;
  }

  // `made`: what `command` makes in "real"; it is removed after each run.
  void with_all(const std::vector<std::string>& names, const std::string& made,
                const std::function<void(const std::vector<std::string>&)>& command) const {
    for (size_t index = 0; index < spellings("x").size(); ++index) {
      std::vector<std::string> spelled;
      for (const std::string& name : names) spelled.push_back(spellings(name)[index]);
      command(spelled);
      ASSERT_FALSE(HasFatalFailure());
      if (made.empty()) continue;
      EXPECT_TRUE(fs::exists(path("real/" + made))) << spelled.back();
      fs::remove_all(path("real/" + made));
    }
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(Spellings, OfFoldersThatAreMade) {
  succeed({"calibrate", path("real/source"), "--calib", path("real/ids.jsonl"), "-o", path("real/amax")});
  with_all({"source", "out", "amax", "work"}, "out", [&](const auto& at) {
    succeed({"plan", at[0], at[1], "--amax", at[2], "--work-dir", at[3]});
    succeed({"quantize", at[0], at[1], "--amax", at[2], "--work-dir", at[3]});
    succeed({"status", at[1]});
    succeed({"quantize", at[0], at[1], "--amax", at[2], "--validate-only"});
    succeed({"verify", at[0], at[1]});
    succeed({"verify", "--checksums", at[1]});
  });
  with_all({"source", "out", "work"}, "out", [&](const auto& at) {
    succeed({"dequantize", at[0], at[1], "--work-dir", at[2]});
    succeed({"verify", at[0], at[1]});
  });
  succeed({"quantize", path("real/source"), path("real/nvfp4"), "--amax", path("real/amax")});
  with_all({"nvfp4", "out"}, "out", [&](const auto& at) {
    succeed({"convert", at[0], at[1], "--to", "mxfp4"});
    succeed({"verify", at[0], at[1]});
  });
  with_all({"source/config.json", "out"}, "out", [&](const auto& at) {
    succeed({"synth", at[0], at[1], "--layers", "0..0", "--experts", "2", "--sparse"});
  });
}

TEST_F(Spellings, OfFiles) {
  with_all({"source", "amax"}, "amax", [&](const auto& at) {
    succeed({"calibrate", at[0], "--calib", path("real/ids.jsonl"), "-o", at[1]});
    succeed({"inspect", at[1]});
  });
  with_all({"source"}, "", [&](const auto& at) { succeed({"inspect", at[0]}); });
  with_all({"source", "out", "amax", "recipe.yaml"}, "out", [&](const auto& at) {
    succeed({"quantize", at[0], at[1], "--calib", path("real/ids.jsonl"), "--save-amax", at[2], "--recipe",
             at[3], "--engine", "none"});
    fs::remove(path("real/amax"));
  });
}

TEST_F(Spellings, AnEmptyPathIsAUsageError) {
  const std::vector<std::vector<std::string>> cases = {
      {"plan", ""},
      {"plan", "a", ""},
      {"plan", "a", "--amax", ""},
      {"plan", "a", "--recipe", ""},
      {"plan", "a", "--explain", ""},
      {"plan", "a", "--calib", ""},
      {"plan", "a", "--work-dir", ""},
      {"quantize", "", "b"},
      {"quantize", "a", ""},
      {"quantize", "a", "b", "--amax", ""},
      {"quantize", "a", "b", "--calib", ""},
      {"quantize", "a", "b", "--calib", "c", "--save-amax", ""},
      {"quantize", "a", "b", "--work-dir", ""},
      {"dequantize", "", "b"},
      {"dequantize", "a", ""},
      {"convert", "a", "", "--to", "mxfp4"},
      {"calibrate", "a", "--calib", "c", "-o", ""},
      {"calibrate", "a", "--calib", "", "-o", "b"},
      {"verify", ""},
      {"verify", "a", ""},
      {"status", ""},
      {"inspect", ""},
      {"inspect", "a", "--tensor", ""},
      {"synth", "", "a"},
      {"synth", "v4-tiny", ""},
  };
  for (const auto& arguments : cases) {
    const CliResult result = run_cli(arguments);
    EXPECT_EQ(result.exit_code, 2) << arguments[0] << ": " << result.err;
    EXPECT_NE(result.err.find(": is empty (is a variable of the shell not set?)"), std::string::npos)
        << result.err;
  }
}

// "./v4-tiny" is a folder, whatever is built in under that name.
TEST_F(Spellings, ADotBeforeABuiltInNameMeansAFile) {
  EXPECT_EQ(run_cli({"synth", "./v4-tiny", path("x")}).exit_code, 2);
  EXPECT_EQ(run_cli({"plan", path("real/source"), "--recipe", "./nvfp4"}).exit_code, 3);
}

}  // namespace
}  // namespace nibblecast::testing
