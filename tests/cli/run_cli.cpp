#include "run_cli.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>

extern char** environ;

namespace nibblecast::testing {

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void write_file(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

CliProcess::CliProcess(const std::vector<std::string>& arguments, const std::string& input) {
  write_file(folder_.path() / "in", input);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  const std::string in = folder_.path() / "in", out = folder_.path() / "out", err = folder_.path() / "err";
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, in.c_str(), O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out.c_str(), O_WRONLY | O_CREAT, 0600);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, err.c_str(), O_WRONLY | O_CREAT, 0600);
  std::vector<std::string> words = {NIBBLECAST_BINARY};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  if (programs_see_gpus)
    ::unsetenv("CUDA_VISIBLE_DEVICES");
  else
    ::setenv("CUDA_VISIBLE_DEVICES", "", 1);
  const int failed = posix_spawn(&pid_, NIBBLECAST_BINARY, &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed == 0) return;
  pid_ = 0;
  status_ = -1;
  ADD_FAILURE() << "cannot run " << NIBBLECAST_BINARY;
}

CliProcess::~CliProcess() {
  if (status_) return;
  signal(SIGKILL);
  wait();
}

void CliProcess::signal(int number) const {
  if (!status_) ::kill(pid_, number);
}

bool CliProcess::ended() {
  int status = 0;
  if (!status_ && waitpid(pid_, &status, WNOHANG) == pid_) status_ = status;
  return status_.has_value();
}

CliResult CliProcess::wait() {
  if (!status_) {
    int status = 0;
    waitpid(pid_, &status, 0);
    status_ = status;
  }
  CliResult result;
  if (pid_ != 0 && WIFEXITED(*status_)) result.exit_code = WEXITSTATUS(*status_);
  result.out = read_file(folder_.path() / "out");
  result.err = read_file(folder_.path() / "err");
  return result;
}

CliResult run_cli(const std::vector<std::string>& arguments, const std::string& input) {
  return CliProcess(arguments, input).wait();
}

Json run_json(std::vector<std::string> arguments) {
  arguments.emplace_back("--json");
  const CliResult result = run_cli(arguments);
  EXPECT_EQ(result.exit_code, 0) << arguments.front() << ": " << result.err;
  return result.exit_code == 0 ? Json::parse(result.out) : Json();
}

std::map<std::string, std::string> folder_contents(const std::filesystem::path& folder) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file())
      contents[entry.path().lexically_relative(folder).string()] = read_file(entry.path());
  }
  return contents;
}

const std::filesystem::path& tiny_checkpoint() {
  static const TemporaryFolder folder;
  static const std::filesystem::path path = [] {
    const std::filesystem::path made = folder.path() / "tiny";
    const CliResult result = run_cli({"synth", "v4-tiny", made.string(), "--quiet"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return made;
  }();
  return path;
}

std::filesystem::path write_texts(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "texts.jsonl";
  std::string lines;
  for (int text = 0; text < 6; ++text) {
    lines +=
        Json{{"text", "Row " + std::to_string(text) + ": weights stream through once, and nothing is lost."}}
            .dump() +
        "\n";
  }
  write_file(path, lines);
  return path;
}

}  // namespace nibblecast::testing
