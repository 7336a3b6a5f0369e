// Help, version, usage errors: exact words, exit codes.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "model/family.h"
#include "run_cli.h"

namespace nibblecast::testing {
namespace {

constexpr const char* kCommands[] = {"plan",     "quantize", "dequantize", "convert", "calibrate",
                                     "verify",   "status",   "resume",     "inspect", "compare",
                                     "evaluate", "synth",    "report",     "doctor"};

TEST(CommandLine, Version) {
  const CliResult result = run_cli({"--version"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out.rfind("nibblecast " NIBBLECAST_VERSION "\n", 0), 0u) << result.out;
  for (const char* line : {"\ncommit  ", "\nCUDA  ", "\nParquet  ", "\nkernels  ", "\nthis CPU  ", "oneDNN "})
    EXPECT_NE(result.out.find(line), std::string::npos) << line << result.out;
  EXPECT_EQ(result.err, "");
}

TEST(CommandLine, HelpListsCommandsAndExitCodes) {
  const CliResult result = run_cli({"--help"});
  EXPECT_EQ(result.exit_code, 0);
  for (const char* command : kCommands) EXPECT_NE(result.out.find(command), std::string::npos) << command;
  for (const char* line :
       {"   0  done", "   2  usage", "   3  bad input", "   4  unsupported", "   5  refused", "   6  verify",
        "   7  the system", "   8  disk full", "   9  interrupted", "  10  the GPU", "  70  internal"}) {
    EXPECT_NE(result.out.find(line), std::string::npos) << line;
  }
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// Descriptions begin in one column, two blanks after the longest name beside one.
void expect_columns(const std::string& help) {
  constexpr size_t kColumn = 24;
  const std::vector<std::string> lines = lines_of(help);
  for (size_t index = 0; index < lines.size(); ++index) {
    const std::string& line = lines[index];
    EXPECT_LE(line.size(), 80u) << line;
    if (!line.starts_with("  ") || line[2] == ' ' || (line[2] >= '0' && line[2] <= '9')) continue;
    const bool is_beside =
        line.size() > kColumn && line.substr(kColumn - 2, 2) == "  " && line[kColumn] != ' ';
    const bool is_below = index + 1 < lines.size() && lines[index + 1].starts_with(std::string(kColumn, ' '));
    EXPECT_TRUE(is_beside || is_below) << line;
  }
}

TEST(CommandLine, HelpOfEachCommandFitsAScreenAndOpensWithAnExample) {
  expect_columns(run_cli({"--help"}).out);
  for (const char* command : kCommands) {
    const CliResult result = run_cli({command, "--help"});
    EXPECT_EQ(result.exit_code, 0) << command;
    EXPECT_EQ(result.out.rfind("Example: nibblecast " + std::string(command), 0), 0u) << result.out;
    EXPECT_LE(std::count(result.out.begin(), result.out.end(), '\n'), 48) << command;
    expect_columns(result.out);
  }
}

TEST(CommandLine, HelpIsACommandToo) {
  EXPECT_EQ(run_cli({"help"}).out, run_cli({"--help"}).out);
  for (const char* command : kCommands) {
    const CliResult result = run_cli({"help", command});
    EXPECT_EQ(result.exit_code, 0) << command;
    EXPECT_EQ(result.out, run_cli({command, "--help"}).out) << command;
  }
  EXPECT_EQ(run_cli({"help", "frobnicate"}).exit_code, 2);
}

// "--name" at the beginning of words.
std::set<std::string> option_names(const std::string& text) {
  std::set<std::string> names;
  for (size_t at = text.find("--"); at != std::string::npos; at = text.find("--", at + 2)) {
    if (at > 0 && std::string_view(" `,|([\n").find(text[at - 1]) == std::string_view::npos) continue;
    const size_t end = text.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-", at);
    if (end != at + 2 && text.substr(at, 3) != "---") names.insert(text.substr(at, end - at));
  }
  return names;
}

TEST(CommandLine, TheDocumentHasEveryOptionAndNoOther) {
  const std::string page = read_file(std::string(NIBBLECAST_SOURCE_DIR) + "/docs/cli.md");
  std::set<std::string> offered;
  for (const char* command : kCommands) {
    for (const std::string& line : lines_of(run_cli({command, "--help"}).out)) {
      const std::string left = line.substr(0, line.find("  ", 2));
      if (line.starts_with("  -")) offered.merge(option_names(left));
    }
  }
  std::set<std::string> documented;
  bool is_code = false;  // other programs' options
  for (const std::string& line : lines_of(page)) {
    is_code = line.starts_with("    ");
    if (!is_code && line.find("`hf ") == std::string::npos) documented.merge(option_names(line));
  }
  for (const std::string& option : offered) EXPECT_TRUE(documented.contains(option)) << option;
  offered.insert("--version");
  for (const std::string& option : documented) EXPECT_TRUE(offered.contains(option)) << option;
}

struct UsageCase {
  std::vector<std::string> arguments;
  std::string message;
};

TEST(CommandLine, UsageErrorsAreOneLine) {
  const std::vector<UsageCase> cases = {
      {{}, "a command is missing; see nibblecast --help"},
      {{"frobnicate"}, "unknown command 'frobnicate'; see nibblecast --help"},
      {{"quant"}, "unknown command 'quant'; did you mean 'quantize'?; see nibblecast --help"},
      {{"help", "plann"}, "unknown command 'plann'; did you mean 'plan'?; see nibblecast --help"},
      {{"-V"}, "unknown option '-V'; did you mean '--version'?; see nibblecast --help"},
      {{"--frobnicate"}, "unknown option '--frobnicate'; see nibblecast --help"},
      {{"plan", "a", "--calib_size=5"},
       "unknown option '--calib_size'; did you mean '--calib-size'?; see nibblecast plan --help"},
      {{"quantize", "a", "b", "--dry-run"},
       "unknown option '--dry-run'; `nibblecast plan` says what quantize would do, `quantize "
       "--validate-only` "
       "whether it can; see nibblecast quantize --help"},
      {{"quantize", "a", "b", "--force"},
       "unknown option '--force'; nothing is overwritten: name another place, or remove what is there; see "
       "nibblecast quantize --help"},
      {{"plan", "a", "--calib", "b", "--calib", "c"},
       "--calib is given more than once; name several sets in one, as A.jsonl:64,B.jsonl:64; see nibblecast "
       "plan --help"},
      {{"plan"}, "SRC is required; see nibblecast plan --help"},
      {{"quantize", "a"}, "DST is required; see nibblecast quantize --help"},
      {{"synth", "v4-tiny", "a", "--memory", "4G"}, "unknown option '--memory'; see nibblecast synth --help"},
      {{"plan", "a", "--frobnicate"}, "unknown option '--frobnicate'; see nibblecast plan --help"},
      {{"plan", "a", "--input-scale", "row"},
       "--input-scale: unknown value 'row' (expected layer, expert or a number above 0, such as 1.0); "
       "see nibblecast plan --help"},
      {{"plan", "a", "--w2-input", "x"},
       "--w2-input: unknown value 'x' (expected max, weighted or unweighted); see nibblecast plan --help"},
      {{"plan", "a", "--engine", "torch"},
       "--engine: unknown value 'torch' (expected vllm, sglang, trtllm or none); see nibblecast plan "
       "--help"},
      {{"plan", "a", "--engine", "vllm", "--engine", "none"},
       "--engine: none stands alone; see nibblecast plan --help"},
      {{"plan", "a", "--threads", "0"},
       "--threads: '0' is not an integer from 1 to 4096; see nibblecast plan --help"},
      {{"plan", "a", "--device", "tpu"},
       "--device: unknown value 'tpu' (expected cpu, cuda or cuda:N); see nibblecast plan --help"},
      {{"quantize", "a", "b", "--device", "cuda:x"},
       "--device: unknown value 'cuda:x' (expected cpu, cuda or cuda:N); see nibblecast quantize --help"},
      {{"calibrate", "a", "--calib", "b", "-o", "c", "--device-memory", "much"},
       "--device-memory: 'much' is not a size (expected 900M, 4G, 1GiB...); see nibblecast calibrate --help"},
      {{"plan", "a", "--memory", "much"},
       "--memory: 'much' is not a size (expected 900M, 4G, 1GiB...); see nibblecast plan --help"},
      {{"plan", "a", "--calib", "x", "--calib-size", "0"},
       "--calib-size: '0' is not a positive integer; see nibblecast plan --help"},
      {{"plan", "a", "--calib", "x", "--calib-seq", "1.5"},
       "--calib-seq: '1.5' is not a positive integer; see nibblecast plan --help"},
      {{"plan", "a", "--calib-size", "5"}, "--calib-size requires --calib; see nibblecast plan --help"},
      {{"calibrate", "a", "-o", "b"}, "--calib is required; see nibblecast calibrate --help"},
      {{"synth", "v4-tiny", "a", "--layers", "3..1"},
       "--layers: '3..1' is not a range (expected A..B, both included); see nibblecast synth --help"},
      {{"quantize", "a", "b", "--calib", "x", "--amax", "y"},
       "--calib and --amax exclude each other; --calib measures, --amax takes what was measured"},
      {{"plan", "a", "--weight-method", "best"},
       "--weight-method: unknown value 'best' (expected cast|max|mse|four_over_six|wmse); see nibblecast "
       "plan "
       "--help"},
      {{"plan", "a", "--cpu-isa", "mmx"},
       "unknown instruction set 'mmx' (expected auto, scalar, avx2 or avx512)"},
      {{"synth", "v5", "a"},
       fmt::format("no configuration 'v5' (expected {} or the path of a config.json)",
                   fmt::join(preset_names(), ", "))},
  };
  for (const UsageCase& usage : cases) {
    const CliResult result = run_cli(usage.arguments);
    EXPECT_EQ(result.exit_code, 2) << usage.message;
    EXPECT_EQ(result.out, "") << usage.message;
    EXPECT_EQ(result.err, "nibblecast: error: " + usage.message + "\n");
  }
}

// A source that is not one: what stands there, and what the user may have meant.
TEST(CommandLine, SourceHints) {
  const TemporaryFolder folder;
  const std::filesystem::path model = folder.path() / "models--org--name";
  std::filesystem::create_directories(model / "snapshots" / "abc");
  write_file(model / "snapshots" / "abc" / "config.json", "{}");
  std::filesystem::create_directories(folder.path() / "empty");
  const auto error_of = [](const std::string& source) {
    const CliResult result = run_cli({"plan", source});
    EXPECT_EQ(result.exit_code, 3) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    return result.err;
  };
  EXPECT_NE(error_of("org/name").find("hf download org/name"), std::string::npos);
  EXPECT_NE(error_of(model.string()).find("give the snapshot: " + (model / "snapshots" / "abc").string()),
            std::string::npos);
  EXPECT_NE(error_of((folder.path() / "empty").string()).find("holds no config.json"), std::string::npos);
  EXPECT_NE(error_of((model / "snapshots" / "abc").string()).find("holds neither"), std::string::npos);
  EXPECT_NE(error_of((model / "snapshots" / "abc" / "config.json").string()).find("is not a folder"),
            std::string::npos);
}

TEST(CommandLine, AFullOutputIsAnError) {
  const std::string command =
      std::string("bash -c \'") + NIBBLECAST_BINARY + " --help >/dev/full 2>/dev/null; test $? = 7\'";
  EXPECT_EQ(std::system(command.c_str()), 0);
}

TEST(CommandLine, AReaderThatHasGoneAwayIsNoError) {
  const std::string command = std::string("bash -o pipefail -c '") + NIBBLECAST_BINARY + " --help | true'";
  EXPECT_EQ(std::system(command.c_str()), 0);
}

// Whatever the command: the first file that it opened would get the number of standard output.
TEST(CommandLine, AClosedOutputIsAnErrorBeforeAnyWork) {
  const TemporaryFolder folder;
  const std::string made = (folder.path() / "new").string(), said = (folder.path() / "said").string();
  for (const std::string& arguments :
       {std::string("--help"), std::string("--version"), "inspect " + tiny_checkpoint().string() + " --json",
        "synth v4-tiny " + made}) {
    const std::string command =
        std::string("bash -c '") + NIBBLECAST_BINARY + " " + arguments + " >&- 2>" + said + "; test $? = 7'";
    EXPECT_EQ(std::system(command.c_str()), 0) << arguments;
    EXPECT_EQ(read_file(said),
              "nibblecast: error: standard output: is closed; give it a file, or >/dev/null\n")
        << arguments;
  }
  EXPECT_FALSE(std::filesystem::exists(made));
}

TEST(CommandLine, WithoutInputAndErrorsItWorks) {
  const TemporaryFolder folder;
  const std::string made = (folder.path() / "new").string();
  const std::string command =
      std::string("bash -c '") + NIBBLECAST_BINARY + " synth v4-tiny " + made + " <&- 2>&- >/dev/null'";
  EXPECT_EQ(std::system(command.c_str()), 0);
  EXPECT_EQ(run_cli({"inspect", made}).exit_code, 0);
}

}  // namespace
}  // namespace nibblecast::testing
