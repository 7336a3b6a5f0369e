// A job that is stopped and goes on, as a user sees it.
#include <gmock/gmock.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <thread>

#include "base/shell.h"
#include "cli/interrupt.h"
#include "run_cli.h"
#include "sanitizers.h"

namespace nibblecast::testing {
namespace {

using Clock = std::chrono::steady_clock;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class Resume : public ::testing::Test {
 protected:
  // Enough text for a run that can be caught at any layer.
  Resume() {
    std::string lines;
    for (int text = 0; text < 12; ++text) {
      std::string words = std::to_string(text) + ":";
      for (int word = 0; word < 100; ++word) words += " weights stream";
      lines += Json{{"text", words}}.dump() + "\n";
    }
    write_file(path("texts.jsonl"), lines);
  }

  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string source() const { return tiny_checkpoint().string(); }

  std::vector<std::string> quantize(const std::string& to, std::vector<std::string> more = {}) const {
    std::vector<std::string> command = {"quantize",
                                        source(),
                                        path(to),
                                        "--calib",
                                        path("texts.jsonl"),
                                        "--calib-size",
                                        "12",
                                        "--calib-rows",
                                        "docs",
                                        "--threads",
                                        "1",
                                        "--quiet"};
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }

  // How many layers the journal has measured; the head counts as one.
  static size_t layers_in(const std::filesystem::path& journal) {
    const std::string text = read_file(journal);
    size_t layers = 0;
    for (const std::string entry : {" {\"layer\"", " {\"perplexity\""}) {
      for (size_t at = text.find(entry); at != std::string::npos; at = text.find(entry, at + 1)) ++layers;
    }
    return layers;
  }

  // Halts it (SIGSTOP) when the journal has `layers` layers; false if it was too fast.
  static bool halt_after(CliProcess& process, const std::filesystem::path& journal, size_t layers) {
    while (layers_in(journal) < layers) {
      if (process.ended()) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    process.signal(SIGSTOP);
    return !process.ended();
  }

  std::filesystem::path journal(const std::string& to) const {
    return folder_.path() / to / ".nibblecast" / "journal";
  }

  // A job killed after `layers` layers.
  void leave_killed(const std::string& to, size_t layers, const std::vector<std::string>& more = {}) {
    for (int attempt = 0; attempt < 20; ++attempt) {
      std::filesystem::remove_all(path(to));
      CliProcess process(quantize(to, more));
      if (!halt_after(process, journal(to), layers)) continue;
      process.signal(SIGKILL);
      process.wait();
      if (!std::filesystem::exists(path(to) + "/config.json")) return;
    }
    FAIL() << "every run was too fast";
  }

  // nibblecast.json and report.* hold times.
  void expect_whole(const std::string& to) {
    if (expected_.empty()) {
      EXPECT_EQ(run_cli(quantize("whole")).exit_code, 0);
      expected_ = output("whole");
    }
    EXPECT_TRUE(output(to) == expected_);
  }
  // Made while the texts are there.
  void expect_whole_of_reference() {
    EXPECT_EQ(run_cli(quantize("whole")).exit_code, 0);
    expected_ = output("whole");
  }
  std::map<std::string, std::string> output(const std::string& to) const {
    auto contents = folder_contents(path(to));
    for (const char* name : {"nibblecast.json", "report.json", "report.html"})
      EXPECT_EQ(contents.erase(name), 1u) << name;
    return contents;
  }

 private:
  TemporaryFolder folder_;
  std::map<std::string, std::string> expected_;
};

TEST_F(Resume, AtWorkThenKilledThenFinished) {
  CliProcess process(quantize("out"));
  ASSERT_TRUE(halt_after(process, journal("out"), 2));
  const CliResult at_work = run_cli({"status", path("out")});
  EXPECT_TRUE(contains(at_work.out, "unfinished, and being worked on")) << at_work.out;
  EXPECT_TRUE(contains(at_work.out, "process " + std::to_string(process.pid()) + ": at work")) << at_work.out;
  EXPECT_EQ(run_json({"status", path("out")})["running"], Json(true));

  const CliResult second = run_cli(quantize("out"));
  EXPECT_EQ(second.exit_code, 5);
  EXPECT_TRUE(contains(second.err,
                       "another process is at work here: process " + std::to_string(process.pid()) + " on "))
      << second.err;

  process.signal(SIGKILL);
  process.wait();
  const CliResult killed = run_cli({"status", path("out")});
  EXPECT_TRUE(contains(killed.out, "unfinished; `nibblecast resume " + path("out") + "` goes on"))
      << killed.out;
  EXPECT_TRUE(contains(killed.out, ": killed, durable up to layer ")) << killed.out;
  const Json json = run_json({"status", path("out")});
  EXPECT_EQ(json["running"], Json(false));
  EXPECT_EQ(json["finished"], Json(false));
  EXPECT_GE(json["layers"]["calibrated"].get<int>(), 2);
  EXPECT_EQ(json["layers"]["of"], Json(5));
  EXPECT_EQ(json["tensors_made_twice"], Json(0));
  EXPECT_EQ(json["attempts"].size(), 1u);

  EXPECT_EQ(run_cli(quantize("out")).exit_code, 0);
  expect_whole("out");
  const CliResult finished = run_cli({"status", path("out")});
  EXPECT_TRUE(contains(finished.out, "state        finished 20")) << finished.out;
  EXPECT_TRUE(contains(finished.out, ": killed, ")) << finished.out;
  EXPECT_TRUE(contains(finished.out, ": finished (")) << finished.out;
  EXPECT_EQ(run_json({"status", path("out")})["attempts"].size(), 2u);
  const CliResult again = run_cli(quantize("out"));
  EXPECT_EQ(again.exit_code, 0);
  EXPECT_TRUE(contains(again.out, "this job's finished output; nothing to do")) << again.out;
  const CliResult other = run_cli(quantize("out", {"--negative-zero", "modelopt"}));
  EXPECT_EQ(other.exit_code, 5);
  EXPECT_TRUE(contains(other.err, "holds the finished output of another job")) << other.err;
}

TEST_F(Resume, InterruptedInTwoSeconds) {
  CliProcess process(quantize("out"));
  ASSERT_TRUE(halt_after(process, journal("out"), 1));
  const auto begin = Clock::now();
  process.signal(SIGINT);
  process.signal(SIGCONT);
  const CliResult result = process.wait();
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(2));
  EXPECT_EQ(result.exit_code, 9);
  EXPECT_EQ(result.err, "nibblecast: error: interrupted; run the same command again to go on\n");
  EXPECT_FALSE(std::filesystem::exists(path("out") + "/config.json"));
  const CliResult status = run_cli({"status", path("out")});
  EXPECT_TRUE(contains(status.out, ": interrupted")) << status.out;
  std::vector<std::string> command = quantize("out");
  command.pop_back();  // not quiet
  const CliResult resumed = run_cli(command);
  EXPECT_EQ(resumed.exit_code, 0);
  EXPECT_TRUE(contains(resumed.err, "resuming (attempt 2): ")) << resumed.err;
  expect_whole("out");
}

TEST_F(Resume, AnotherJobIsRefusedNamingWhatDiffers) {
  leave_killed("out", 1);
  const CliResult other = run_cli(quantize("out", {"--compute-dtype", "float32"}));
  EXPECT_EQ(other.exit_code, 5);
  EXPECT_TRUE(contains(other.err, "partial output of another job")) << other.err;
  EXPECT_TRUE(contains(other.err, "bfloat16")) << other.err;
  EXPECT_TRUE(contains(other.err, "float32")) << other.err;
  EXPECT_TRUE(contains(other.err, "; go on with it by `nibblecast quantize ")) << other.err;
}

// The command that began it would be refused too.
TEST_F(Resume, AnotherConfigIsToBeGivenBack) {
  std::filesystem::copy(tiny_checkpoint(), path("src"));
  const std::vector<std::string> command = {
      "quantize",         path("src"), path("out"), "--calib", write_texts(path("")).string(),
      "--max-perplexity", "0.001",     "--quiet"};
  ASSERT_EQ(run_cli(command).exit_code, 6);
  Json config = Json::parse(read_file(path("src") + "/config.json"));
  config["rms_norm_eps"] = 1e-4;
  write_file(path("src") + "/config.json", config.dump());
  const CliResult other = run_cli(command);
  EXPECT_EQ(other.exit_code, 5);
  EXPECT_TRUE(contains(other.err,
                       "the source's headers or config.json were others; give it back the source that it had "
                       "and go on with it by `nibblecast quantize "))
      << other.err;
}

TEST_F(Resume, ValidateOnlyChangesNothing) {
  const CliResult fresh = run_cli(quantize("out", {"--validate-only"}));
  EXPECT_EQ(fresh.exit_code, 0);
  EXPECT_TRUE(contains(fresh.out, "new; nothing stands in the job's way")) << fresh.out;
  EXPECT_FALSE(std::filesystem::exists(path("out")));

  leave_killed("out", 2);
  const auto before = folder_contents(path("out"));
  const Json partial = run_json(quantize("out", {"--validate-only"}));
  EXPECT_EQ(partial["ok"], Json(true));
  EXPECT_EQ(partial["state"], Json("unfinished"));
  EXPECT_TRUE(folder_contents(path("out")) == before);

  EXPECT_EQ(run_cli(quantize("out")).exit_code, 0);
  const Json finished = run_json(quantize("out", {"--validate-only"}));
  EXPECT_EQ(finished["state"], Json("finished"));
  EXPECT_GT(finished["tensors"].get<int>(), 700);
  const std::string file = path("out") + "/tokenizer.json";
  write_file(file, read_file(file) + " ");
  const CliResult damaged = run_cli(quantize("out", {"--validate-only"}));
  EXPECT_EQ(damaged.exit_code, 6);
  EXPECT_TRUE(contains(damaged.out, "tokenizer.json")) << damaged.out;
}

TEST_F(Resume, ExportOnly) {
  const CliResult none = run_cli(quantize("out", {"--export-only"}));
  EXPECT_EQ(none.exit_code, 5);
  EXPECT_TRUE(contains(none.err, "holds no finished calibration")) << none.err;
  EXPECT_FALSE(std::filesystem::exists(path("out")));
  leave_killed("out", 3);
  EXPECT_EQ(run_cli(quantize("out", {"--export-only"})).exit_code, 5);
  leave_killed("out", 6);  // all five and the head
  EXPECT_EQ(run_cli(quantize("out", {"--export-only"})).exit_code, 0);
  expect_whole("out");
  const CliResult amax = run_cli({"quantize", source(), path("from_amax"), "--amax",
                                  path("out") + "/calibration/amax.safetensors", "--export-only", "--quiet"});
  EXPECT_EQ(amax.exit_code, 0) << amax.err;
}

TEST_F(Resume, WorkFolderElsewhere) {
  const std::filesystem::path work = path("work");
  CliProcess process(quantize("out", {"--work-dir", work.string()}));
  ASSERT_TRUE(halt_after(process, work / "journal", 1));
  process.signal(SIGKILL);
  process.wait();
  EXPECT_FALSE(std::filesystem::exists(journal("out")));
  std::filesystem::rename(work, path("away"));
  const CliResult gone = run_cli(quantize("out"));
  EXPECT_EQ(gone.exit_code, 5);
  EXPECT_TRUE(contains(gone.err, "work folder is not there")) << gone.err;
  const CliResult status = run_cli({"status", path("out")});
  EXPECT_TRUE(contains(status.out, work.string() + " is not there")) << status.out;
  std::filesystem::rename(path("away"), work);
  // It is in the job's record; the option may be left out.
  EXPECT_EQ(run_cli(quantize("out")).exit_code, 0);
  EXPECT_FALSE(std::filesystem::exists(work));
  expect_whole("out");
}

TEST_F(Resume, StrictTurnsWarningsIntoRefusals) {
  std::vector<std::string> command = {"quantize",          source(),       path("out"), "--calib",
                                      path("texts.jsonl"), "--calib-size", "500",       "--quiet"};
  command.emplace_back("--strict");
  const CliResult strict = run_cli(command);
  EXPECT_EQ(strict.exit_code, 5);
  EXPECT_TRUE(contains(strict.err, "nibblecast: error: ")) << strict.err;
  EXPECT_TRUE(contains(strict.err, "500")) << strict.err;
  EXPECT_FALSE(std::filesystem::exists(path("out")));
  command.pop_back();
  const CliResult lax = run_cli(command);
  EXPECT_EQ(lax.exit_code, 0);
  EXPECT_TRUE(contains(lax.err, "nibblecast: warning: ")) << lax.err;
}

// Paths are bytes; JSON is UTF-8. That must not come out at the very end of a run.
TEST_F(Resume, PathsThatAreNotUtf8) {
  const std::string latin = path("s\xe9");
  std::filesystem::copy(source(), latin, std::filesystem::copy_options::recursive);
  write_file(path("t\xe9.jsonl"), read_file(path("texts.jsonl")));
  std::vector<std::string> command = {"quantize",          latin,          path("o\xe9"), "--calib",
                                      path("t\xe9.jsonl"), "--calib-size", "2",           "--quiet"};
  const CliResult made = run_cli(command);
  EXPECT_EQ(made.exit_code, 0) << made.err;
  EXPECT_EQ(run_cli({"status", path("o\xe9")}).exit_code, 0);
  EXPECT_EQ(run_cli({"verify", "--checksums", path("o\xe9"), "--quiet"}).exit_code, 0);
  command[2] = path("other");
  command.insert(command.end(), {"--work-dir", path("w\xe9")});
  const CliResult refused = run_cli(command);
  EXPECT_EQ(refused.exit_code, 5);
  EXPECT_TRUE(contains(refused.err, "is not UTF-8")) << refused.err;
}

TEST_F(Resume, VerifyChecksums) {
  ASSERT_EQ(run_cli(quantize("out")).exit_code, 0);
  const CliResult right = run_cli({"verify", "--checksums", path("out"), "--quiet"});
  EXPECT_EQ(right.exit_code, 0);
  EXPECT_TRUE(contains(right.out, "as it was written")) << right.out;
  // The output does not need its source.
  const std::string shard = path("out") + "/model-00003-of-00008.safetensors";
  const std::string whole = read_file(shard);
  std::string damaged = whole;
  damaged[damaged.size() - 5] ^= 1;
  write_file(shard, damaged);
  const CliResult wrong = run_cli({"verify", "--checksums", path("out"), "--quiet"});
  EXPECT_EQ(wrong.exit_code, 6);
  EXPECT_TRUE(contains(wrong.out, "layers.")) << wrong.out;
  EXPECT_TRUE(contains(wrong.out, "WRONG: 1 problem\n")) << wrong.out;
  EXPECT_EQ(Json::parse(run_cli({"verify", "--checksums", path("out"), "--quiet", "--json"}).out)["ok"],
            Json(false));
  write_file(shard, whole.substr(0, whole.size() / 2));
  EXPECT_EQ(run_cli({"verify", "--checksums", path("out"), "--quiet"}).exit_code, 6);
  const CliResult cut = run_cli(quantize("out"));
  EXPECT_EQ(cut.exit_code, 5);
  EXPECT_TRUE(contains(cut.err, "is missing or cut")) << cut.err;
  std::filesystem::remove(shard);
  const CliResult missing = run_cli({"verify", "--checksums", path("out"), "--quiet"});
  EXPECT_EQ(missing.exit_code, 6);
  EXPECT_TRUE(contains(missing.out, "model-00003")) << missing.out;
  const CliResult foreign = run_cli({"verify", "--checksums", source(), "--quiet"});
  EXPECT_EQ(foreign.exit_code, 3);
  EXPECT_TRUE(contains(foreign.err, "holds no nibblecast.json")) << foreign.err;
}

TEST_F(Resume, CalibrateGoesOn) {
  const std::vector<std::string> command = {"calibrate",    source(), "--calib", path("texts.jsonl"),
                                            "--calib-size", "12",     "-o",      path("amax"),
                                            "--threads",    "1",      "--quiet"};
  const std::filesystem::path kept = path("amax.nibblecast");
  CliProcess process(command);
  ASSERT_TRUE(halt_after(process, kept / "journal", 2));
  const CliResult at_work = run_cli({"status", path("amax")});
  EXPECT_TRUE(contains(at_work.out, "being worked on")) << at_work.out;
  EXPECT_TRUE(contains(at_work.out, " of 5 layers")) << at_work.out;
  process.signal(SIGINT);
  process.signal(SIGCONT);
  EXPECT_EQ(process.wait().exit_code, 9);
  EXPECT_EQ(run_cli(command).exit_code, 0);
  EXPECT_FALSE(std::filesystem::exists(kept));
  EXPECT_EQ(run_cli(quantize("whole")).exit_code, 0);
  EXPECT_TRUE(read_file(path("amax")) == read_file(path("whole") + "/calibration/amax.safetensors"));
}

// ---- the command on record ----

TEST_F(Resume, StatusSaysTheCommandReadyToPaste) {
  const std::vector<std::string> command = quantize("out's", {"--checkpoint-every", "1"});
  CliProcess process(command);
  ASSERT_TRUE(halt_after(process, journal("out's"), 2));
  process.signal(SIGKILL);
  process.wait();
  const CliResult status = run_cli({"status", path("out's")});
  EXPECT_TRUE(contains(status.out, "command      nibblecast " + shell_words(command) + "\n")) << status.out;
  EXPECT_TRUE(contains(status.out, "`nibblecast resume " + shell_word(path("out's")) + "` goes on"))
      << status.out;
  EXPECT_TRUE(contains(status.out, "pace         ")) << status.out;
  const Json json = run_json({"status", path("out's")});
  EXPECT_GT(json["pace"]["percent"].get<double>(), 0);
  EXPECT_LT(json["pace"]["percent"].get<double>(), 100);
  // From elsewhere the folder comes first.
  const std::string elsewhere =
      std::string("cd / && ") + NIBBLECAST_BINARY + " status " + shell_word(path("out's")) + " | grep -q " +
      shell_word("cd " + shell_word(std::filesystem::current_path().string()) + " && nibblecast quantize ");
  EXPECT_EQ(std::system(elsewhere.c_str()), 0);
}

TEST_F(Resume, ResumeRunsTheCommandThatBeganIt) {
  leave_killed("out", 2);
  const CliResult resumed = run_cli({"resume", path("out"), "--threads", "2", "--memory", "4G", "--json"});
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_TRUE(Json::parse(resumed.out).is_object());
  expect_whole("out");
  const Json record = Json::parse(read_file(path("out") + "/nibblecast.json"));
  const std::string line = record["command_line"];
  EXPECT_TRUE(contains(line, "nibblecast quantize tiny out --calib texts.jsonl --calib-size 12")) << line;
  const CliResult again = run_cli({"resume", path("out")});
  EXPECT_EQ(again.exit_code, 5);
  EXPECT_TRUE(contains(again.err, "is finished; nothing is left to do")) << again.err;
  const CliResult none = run_cli({"resume", path("nothing")});
  EXPECT_EQ(none.exit_code, 3);
  EXPECT_TRUE(contains(none.err, "holds no unfinished job")) << none.err;
}

TEST_F(Resume, ResumeOfAJobThatWasMovedIsRefused) {
  leave_killed("out", 1);
  std::filesystem::rename(path("out"), path("moved"));
  const CliResult moved = run_cli({"resume", path("moved")});
  EXPECT_EQ(moved.exit_code, 5);
  EXPECT_TRUE(contains(moved.err, "lies elsewhere now")) << moved.err;
  EXPECT_FALSE(std::filesystem::exists(path("out")));
  EXPECT_EQ(run_cli(quantize("moved")).exit_code, 0);
  expect_whole("moved");
}

TEST_F(Resume, ResumeWorksFromAnyFolderWithTheCommandsOwnPaths) {
  const std::string begin = std::string("cd ") + path(".") + " && timeout -s KILL 60 " + NIBBLECAST_BINARY +
                            " quantize " + source() + " ./out/ --calib texts.jsonl --calib-size 12" +
                            " --threads 1 --quiet";
  ASSERT_EQ(std::system((begin + " --validate-only >" + path("said")).c_str()), 0);
  // Stopped by a signal at some moment: whatever it has done by then.
  const std::string stop = "( " + begin + " ) & pid=$!; while ! test -s " + path("out/.nibblecast/journal") +
                           "; do :; done; kill -9 $(pgrep -P $pid) 2>/dev/null; wait; true";
  ASSERT_EQ(std::system(("bash -c " + shell_word(stop) + " 2>/dev/null").c_str()), 0);
  if (std::filesystem::exists(path("out") + "/config.json")) GTEST_SKIP() << "the run was too fast";
  EXPECT_EQ(std::system((std::string("cd / && ") + NIBBLECAST_BINARY + " resume " + path("out")).c_str()), 0);
  expect_whole("out");
}

TEST_F(Resume, RefusalsNameTheOptionsAndBothValues) {
  leave_killed("out", 1);
  const CliResult method = run_cli(quantize("out", {"--weight-method", "max"}));
  EXPECT_EQ(method.exit_code, 5);
  EXPECT_TRUE(contains(method.err, "--weight-method was cast, is max")) << method.err;
  EXPECT_TRUE(contains(method.err, "go on with it by `nibblecast quantize ")) << method.err;
  std::vector<std::string> command = quantize("out");
  *std::ranges::find(command, "12") = "11";
  const CliResult size = run_cli(command);
  EXPECT_TRUE(contains(size.err, "--calib-size was 12, is 11")) << size.err;
  const CliResult isa = run_cli(quantize("out", {"--cpu-isa", "scalar"}));
  EXPECT_TRUE(contains(isa.err, "--cpu-isa was auto, is scalar")) << isa.err;
  const CliResult amax = run_cli({"dequantize", source(), path("out"), "--quiet"});
  EXPECT_TRUE(contains(amax.err, "command was quantize, is dequantize")) << amax.err;
}

TEST_F(Resume, ExportOnlyNeedsNoTexts) {
  expect_whole_of_reference();
  leave_killed("out", 6);  // all five and the head
  std::filesystem::remove(path("texts.jsonl"));
  const CliResult made = run_cli({"quantize", source(), path("out"), "--export-only", "--quiet"});
  EXPECT_EQ(made.exit_code, 0) << made.err;
  expect_whole("out");
}

TEST(DeadlineNote, IsCalledBeforeTheProcessEnds) {
  EXPECT_EXIT(
      {
        const InterruptWatch watch("run it again");
        const DeadlineNote note(
            [](const std::string& reason) { std::fprintf(stderr, "noted %s\n", reason.c_str()); });
        std::raise(SIGTERM);
        std::this_thread::sleep_for(std::chrono::seconds(60));
      },
      ::testing::ExitedWithCode(9), ::testing::HasSubstr("noted stopped by signal 15; run it again"));
}

// ---- limits ----

TEST_F(Resume, NoStreamsAreSavedWhereNoLayerIsThatFar) {
  std::vector<std::string> command = quantize("out", {"--checkpoint-every", "5"});
  command[0] = "plan";
  const Json never = run_json(command);
  EXPECT_EQ(never["resume"]["state_bytes"], Json(0));
  command.back() = command.back() == "5" ? "4" : command.back();
  EXPECT_GT(run_json(command)["disk"]["needed"].get<uint64_t>(), never["disk"]["needed"].get<uint64_t>());
}

// A line, and its exit code; `limit` is what the shell sets before.
CliResult run_limited(const std::string& limit, const std::vector<std::string>& arguments,
                      const std::filesystem::path& folder) {
  const std::string err = (folder / "err").string();
  const int status = std::system(("bash -c " + shell_word(limit + "; exec " + NIBBLECAST_BINARY + " " +
                                                          shell_words(arguments) + " 2>" + shell_word(err)))
                                     .c_str());
  return {.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1, .out = "", .err = read_file(err)};
}

TEST_F(Resume, ALimitOnTheSizeOfFilesIsOneLine) {
  const CliResult limited = run_limited("ulimit -f 4096", quantize("out"), path("."));
  EXPECT_EQ(limited.exit_code, 7) << limited.err;
  EXPECT_TRUE(contains(limited.err, "ulimit -f")) << limited.err;
  EXPECT_EQ(std::ranges::count(limited.err, '\n'), 1) << limited.err;
  EXPECT_EQ(run_cli(quantize("out")).exit_code, 0);
  expect_whole("out");
}

TEST_F(Resume, ALimitOnMemoryIsOneLine) {
  SKIP_WITH_SANITIZERS();
  for (const char* limit : {"ulimit -v 300000", "ulimit -v 500000", "ulimit -v 800000"}) {
    const CliResult limited = run_limited(limit, quantize("out"), path("."));
    EXPECT_TRUE(limited.exit_code == 5 || limited.exit_code == 0)
        << limit << limited.exit_code << limited.err;
    EXPECT_EQ(std::ranges::count(limited.err, '\n'), limited.exit_code == 0 ? 0 : 1) << limit << limited.err;
    std::filesystem::remove_all(path("out"));
  }
}

TEST(Device, AnOrdinalThatIsNone) {
  const CliResult result = run_cli({"plan", tiny_checkpoint().string(), "--device", "cuda:4294967296"});
  EXPECT_EQ(result.exit_code, 5) << result.out;
  EXPECT_TRUE(contains(result.err, "--device cuda:4294967296: ")) << result.err;
}

}  // namespace
}  // namespace nibblecast::testing
