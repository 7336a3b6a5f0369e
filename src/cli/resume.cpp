#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/shell.h"
#include "cli/commands.h"
#include "cli/job_folder.h"
#include "pipeline/job.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

struct ResumeArguments {
  std::string destination;
  std::string threads, memory, device_memory;
};

// Takes an option and its value out of a command.
void remove_option(std::vector<std::string>& words, std::string_view option) {
  for (auto word = words.begin(); word != words.end();) {
    const bool alone = *word == option;
    if (!alone && !word->starts_with(std::string(option) + "=")) {
      ++word;
      continue;
    }
    word = words.erase(word, word + (alone && word + 1 != words.end() ? 2 : 1));
  }
}

// Options that do not change the output's bytes, in place of the recorded ones. They stand right after the
// command's name: a "--" may come later.
void replace_options(std::vector<std::string>& words, const ResumeArguments& arguments,
                     const CommonOptions& common) {
  const auto insert = [&](const std::string& word) { words.insert(words.begin() + 1, word); };
  const auto replace = [&](const char* option, const std::string& value) {
    if (value.empty()) return;
    remove_option(words, option);
    insert(std::string(option) + "=" + value);
  };
  replace("--threads", arguments.threads);
  replace("--memory", arguments.memory);
  replace("--device-memory", arguments.device_memory);
  if (common.quiet) insert("--quiet");
  if (common.json) insert("--json");
}

[[noreturn]] void refuse(const Path& place, const std::string& problem, const std::string& hint) {
  throw Error(ErrorKind::kRefused, {.file = place.string()}, problem, {.hint = hint});
}

// The program again, with the recorded command. Returns only by an Error.
void run_again(std::vector<std::string> words) {
  words.insert(words.begin(), "nibblecast");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  ::execv("/proc/self/exe", argv.data());
  throw Error(ErrorKind::kIo, {.file = "/proc/self/exe"},
              std::string("cannot be run again: ") + std::strerror(errno));
}

int run(const ResumeArguments& arguments, const CommonOptions& common) {
  FileSystem& files = system_files();
  const Path place = std::filesystem::absolute(arguments.destination);
  const Path folder = job_folder(files, place);
  const std::optional<JobDocument> job = read_job_document(files, folder);
  if (!job) {
    if (is_finished(files, place)) refuse(place, "is finished", "nothing is left to do");
    throw Error(ErrorKind::kBadInput, {.file = arguments.destination},
                "holds no unfinished job of nibblecast");
  }
  if (!job->description.command)
    refuse(place, "the command that began this job is not on record", "run it again by hand");
  CommandRecord command = *job->description.command;
  const std::string text = command_text(command);
  if (::chdir(command.folder.c_str()) != 0) {
    refuse(command.folder, fmt::format("the folder that the job was begun in: {}", std::strerror(errno)),
           "run the command where its paths hold: " + text);
  }
  // It names its destination itself: that must be this one.
  if (files.real_path(job->begun_in) != files.real_path(folder)) {
    refuse(place, "the job was begun in " + job->begun_in.string() + ", and lies elsewhere now",
           "run its command with the new path: " + text);
  }
  replace_options(command.arguments, arguments, common);
  run_again(std::move(command.arguments));
  return 0;
}

}  // namespace

void add_resume(CLI::App& app, CommonOptions& common, Action& action) {
  const auto arguments = std::make_shared<ResumeArguments>();
  CLI::App& command =
      add_command(app, "resume", "Goes on with the job that DST holds, by the command that began it.",
                  "nibblecast resume DeepSeek-V4-Flash-NVFP4");
  add_path(command, "DST", arguments->destination, "", "an unfinished output, or an amax file being made")
      ->required();
  add_text(command, "--threads", arguments->threads, "N", "in place of the command's");
  add_text(command, "--memory", arguments->memory, "SIZE", "in place of the command's");
  add_text(command, "--device-memory", arguments->device_memory, "SIZE", "in place of the command's");
  add_common_options(command, common);
  command.callback(
      [arguments, &common, &action] { action = [arguments, &common] { return run(*arguments, common); }; });
}

}  // namespace nibblecast
