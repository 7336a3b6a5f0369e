#include "cli/cli.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <map>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "base/cpu_isa.h"
#include "base/error.h"
#include "base/parallel.h"
#include "base/threads.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/help.h"
#include "cli/option_table.h"
#include "cli/reply.h"
#include "cli/source.h"
#include "cli/suggestion.h"
#include "cli/version.h"
#include "pipeline/io_threads.h"

namespace nibblecast {
namespace {

constexpr const char* kExitCodes =
    "Exit codes:\n"
    "   0  done, perhaps with warnings\n"
    "   2  usage: unknown command, option or value\n"
    "   3  bad input: a file is missing, damaged or wrong\n"
    "   4  unsupported: well-formed, but not by this version\n"
    "   5  refused: no disk or memory for it, an engine's contract, a DST in use\n"
    "   6  verify found a problem\n"
    "   7  the system failed to read or write\n"
    "   8  disk full\n"
    "   9  interrupted; the same command goes on\n"
    "  10  the GPU failed; the same command goes on\n"
    "  70  internal error";

// Besides those that compute: reading, writing, saving streams; committing, and waiting for a signal.
constexpr size_t kOtherThreads = 3 * kIoThreads + 2;

int exit_code(ErrorKind kind) { return static_cast<int>(kind); }

// What people look for under another name.
std::string other_name(const std::string& word) {
  static const std::map<std::string, std::string> names = {
      {"--dry-run",
       "`nibblecast plan` says what quantize would do, `quantize --validate-only` whether it can"},
      {"--force", "nothing is overwritten: name another place, or remove what is there"},
      {"--overwrite", "nothing is overwritten: name another place, or remove what is there"},
      {"--resume", "the same command goes on where it was stopped"},
      {"-V", "did you mean '--version'?"},
      {"-v", "did you mean '--version'?"},
      {"version", "did you mean '--version'?"},
      {"--verbose", "progress goes to stderr unless --quiet is given"}};
  const auto found = names.find(word);
  return found == names.end() ? std::string() : found->second;
}

std::string hint_for(const std::string& word, std::span<const std::string> known) {
  if (std::string other = other_name(word); !other.empty()) return other;
  const std::string nearest = nearest_word(word, known);
  return nearest.empty() ? std::string() : "did you mean '" + nearest + "'?";
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : shown_commands(app)) names.push_back(command->get_name());
  return names;
}

std::vector<std::string> option_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

struct Complaint {
  std::string problem, hint;
};

Complaint complaint_of_top(const CLI::App& app, const std::string& first) {
  if (first.empty()) return {"a command is missing", ""};
  if (first[0] == '-') return {"unknown option '" + first + "'", hint_for(first, option_names(app))};
  return {"unknown command '" + first + "'", hint_for(first, command_names(app))};
}

Complaint complaint_of(const CLI::App& command, const CLI::ParseError& error) {
  constexpr std::string_view kTwice = ": At Most 1 required";
  const std::string problem = error.what();
  const size_t twice = problem.find(kTwice);
  if (twice != std::string::npos) {
    const std::string option = problem.substr(0, twice);
    return {option + " is given more than once",
            option == "--calib" ? "name several sets in one, as A.jsonl:64,B.jsonl:64" : ""};
  }
  for (const std::string& extra : command.remaining()) {
    if (!extra.starts_with('-')) continue;
    const std::string name = extra.substr(0, extra.find('='));
    return {"unknown option '" + name + "'", hint_for(name, option_names(command))};
  }
  return {problem, ""};
}

// `first`: the first argument, if there is one.
int usage_error(const CLI::App& app, const std::string& first, const CLI::ParseError& error) {
  const auto commands = app.get_subcommands();
  const Complaint complaint =
      commands.empty() ? complaint_of_top(app, first) : complaint_of(*commands.front(), error);
  const std::string command = commands.empty() ? "" : commands.front()->get_name() + " ";
  print_error(Error(ErrorKind::kUsage, {}, complaint.problem,
                    {.hint = (complaint.hint.empty() ? "" : complaint.hint + "; ") + "see nibblecast " +
                             command + "--help"}));
  return exit_code(ErrorKind::kUsage);
}

// Commands that compute choose the processor's instructions.
bool computes(const CLI::App& command) { return command.get_option_no_throw("--cpu-isa") != nullptr; }

// `help` and `help COMMAND` are `--help` and `COMMAND --help`.
std::vector<const char*> without_help_command(int argc, const char* const* argv) {
  std::vector<const char*> words(argv, argv + argc);
  if (words.size() < 2 || std::string_view(words[1]) != "help") return words;
  words.erase(words.begin() + 1);
  words.push_back("--help");
  return words;
}

// Where the arguments could not be understood.
bool asks_for_json(std::span<const char* const> words) {
  return std::ranges::any_of(words, [](const char* word) { return std::string_view(word) == "--json"; });
}

int parse_and_run(int argc, const char* const* argv) {
  CLI::App app(
      "Turns checkpoints of language models into NVFP4: calibrated, cast without loss where they can be, "
      "proven.",
      "nibblecast");
  app.formatter(std::make_shared<HelpFormatter>());
  app.footer(kExitCodes);
  app.set_help_flag("-h,--help", "this text; of a command: nibblecast help COMMAND");
  app.set_version_flag("--version", version_text, "the version, and what is built in");
  app.require_subcommand(1);
  CommonOptions common;
  common.threads = default_threads();
  Action action;
  for (const auto add : {add_plan, add_quantize, add_dequantize, add_convert, add_calibrate, add_resume,
                         add_status, add_verify, add_report, add_inspect, add_compare, add_evaluate,
                         add_doctor, add_synth, add_generate}) {
    add(app, common, action);
  }
  const std::vector<const char*> words = without_help_command(argc, argv);
  const std::string first = words.size() > 1 ? words[1] : "";
  try {
    app.parse(static_cast<int>(words.size()), words.data());
  } catch (const CLI::CallForHelp& call) {
    const bool is_command = !first.empty() && first[0] != '-';
    if (is_command && app.get_subcommands().empty()) return usage_error(app, first, call);
    print_data(app.help());
    return 0;
  } catch (const CLI::CallForVersion& version) {
    print_data(version.what());
    return 0;
  } catch (const CLI::ParseError& error) {
    if (asks_for_json(words)) begin_reply(app.get_subcommands().empty() ? "" : first);
    return usage_error(app, first, error);
  }
  const CLI::App& command = *app.get_subcommands().front();
  if (common.json) begin_reply(command.get_name());
  common.command_line = command_line_of(argc, argv, command);
  set_cpu_isa(common.cpu_isa);
  if (computes(command)) require_threads(common.threads, kOtherThreads);
  const ThreadLimit limit(common.threads);
  const int code = action();
  finish_kept_sources(common);
  return code;
}

// An exception that nothing could catch: in a thread of a library's.
[[noreturn]] void end_in_one_line() {
  std::string what = "unknown";
  try {
    if (const auto exception = std::current_exception()) std::rethrow_exception(exception);
  } catch (const std::exception& exception) {
    what = exception.what();
  } catch (...) {
  }
  print_error(ErrorKind::kInternal, "internal error: " + what);
  finish_reply(exit_code(ErrorKind::kInternal));
  std::_Exit(exit_code(ErrorKind::kInternal));
}

int system_failure(const std::string& what) {
  print_error(ErrorKind::kIo, "the system failed: " + what);
  return exit_code(ErrorKind::kIo);
}

int run_to_exit_code(int argc, const char* const* argv) {
  try {
    if (!open_standard_streams()) {
      throw Error(ErrorKind::kIo, {.file = "standard output"}, "is closed",
                  {.hint = "give it a file, or >/dev/null"});
    }
    return parse_and_run(argc, argv);
  } catch (const Error& error) {
    print_error(error);
    return exit_code(error.kind());
  } catch (const std::bad_alloc&) {
    print_error(
        ErrorKind::kRefused,
        "out of memory; give --memory less than the system (or ulimit -v) has, or calibrate with fewer rows");
    return exit_code(ErrorKind::kRefused);
  } catch (const std::filesystem::filesystem_error& error) {
    return system_failure(error.path1().string() + ": " + error.code().message());
  } catch (const std::system_error& error) {
    return system_failure(error.what());
  } catch (const std::exception& error) {
    print_error(ErrorKind::kInternal, "internal error: " + std::string(error.what()));
    return exit_code(ErrorKind::kInternal);
  }
}

}  // namespace

int run_command_line(int argc, const char* const* argv) {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // writing more than `ulimit -f` allows is an error like others
  std::set_terminate(end_in_one_line);
  const int code = run_to_exit_code(argc, argv);
  try {
    finish_reply(code);
  } catch (const Error& error) {  // stdout cannot be written to
    print_error(error);
    return exit_code(error.kind());
  }
  return code;
}

}  // namespace nibblecast
