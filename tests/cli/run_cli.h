// tests/cli/run_cli.h - runs the nibblecast program as a user would.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "testing.h"

namespace nibblecast::testing {

// Whether programs find the machine's GPUs; most suites are about the program on the CPU.
inline bool programs_see_gpus = false;

struct CliResult {
  int exit_code = -1;  // -1: ended by a signal
  std::string out, err;
};

// The program at work. Arguments after its name; `input` is its standard input.
class CliProcess {
 public:
  explicit CliProcess(const std::vector<std::string>& arguments, const std::string& input = "");
  // Killed, if nobody waited for it.
  ~CliProcess();
  CliProcess(const CliProcess&) = delete;
  CliProcess& operator=(const CliProcess&) = delete;

  pid_t pid() const { return pid_; }
  void signal(int number) const;
  bool ended();  // without waiting
  CliResult wait();

 private:
  TemporaryFolder folder_;
  pid_t pid_ = 0;  // 0: it could not be started
  std::optional<int> status_;
};

// Runs it to its end.
CliResult run_cli(const std::vector<std::string>& arguments, const std::string& input = "");
// The same, which must succeed with --json; what it printed.
Json run_json(std::vector<std::string> arguments);

std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, const std::string& text);
// Relative path -> content of all files of a folder.
std::map<std::string, std::string> folder_contents(const std::filesystem::path& folder);

// A synthesized v4-tiny checkpoint, made once a process.
const std::filesystem::path& tiny_checkpoint();
// A JSONL file of a few texts, in `folder`.
std::filesystem::path write_texts(const std::filesystem::path& folder);

}  // namespace nibblecast::testing
