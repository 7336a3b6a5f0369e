#include "cli/cli.h"

#include <csignal>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <new>
#include <system_error>

#include "base/cpu_isa.h"
#include "base/error.h"
#include "base/parallel.h"
#include "base/threads.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/help.h"
#include "cli/version.h"
#include "pipeline/io_threads.h"

namespace nibblecast {
namespace {

constexpr const char* kExitCodes =
    "Exit codes:\n"
    "   0  done; nothing to complain of\n"
    "   2  usage: unknown command, option or value\n"
    "   3  bad input: a file is missing, damaged or wrong\n"
    "   4  unsupported: well-formed, but not by this version\n"
    "   5  refused: cannot succeed (disk, memory, an engine's contract, a destination in use)\n"
    "   6  verify found a problem\n"
    "   7  the system failed to read or write\n"
    "   8  disk full\n"
    "   9  interrupted; the same command goes on\n"
    "  10  the GPU failed; the same command goes on\n"
    "  70  internal error";

// Besides those that compute: reading, writing, saving streams; committing, and waiting for a signal.
constexpr size_t kOtherThreads = 3 * kIoThreads + 2;

int exit_code(ErrorKind kind) { return static_cast<int>(kind); }

// `first`: the first argument, if there is one.
int usage_error(const CLI::App& app, const std::string& first, const CLI::ParseError& error) {
  const auto commands = app.get_subcommands();
  const bool is_command_wrong = commands.empty() && (first.empty() || first[0] != '-');
  const std::string problem = !is_command_wrong ? error.what()
                              : first.empty()   ? "a command is missing"
                                                : "unknown command '" + first + "'";
  print_error(problem + "; see nibblecast " + (commands.empty() ? "" : commands.front()->get_name() + " ") +
              "--help");
  return exit_code(ErrorKind::kUsage);
}

// Commands that compute choose the processor's instructions.
bool computes(const CLI::App& command) { return command.get_option_no_throw("--cpu-isa") != nullptr; }

int parse_and_run(int argc, const char* const* argv) {
  CLI::App app("Turns DeepSeek-V4 checkpoints into NVFP4: calibrated, cast without loss, proven.",
               "nibblecast");
  app.formatter(std::make_shared<HelpFormatter>());
  app.footer(kExitCodes);
  app.set_help_flag("-h,--help", "this text; of a command: nibblecast COMMAND --help");
  app.set_version_flag("--version", version_text, "the version, and what is built in");
  app.require_subcommand(1);
  CommonOptions common;
  common.threads = default_threads();
  Action action;
  for (const auto add : {add_plan, add_quantize, add_dequantize, add_convert, add_calibrate, add_resume,
                         add_status, add_verify, add_inspect, add_synth}) {
    add(app, common, action);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    print_data(app.help());
    return 0;
  } catch (const CLI::CallForVersion& version) {
    print_data(version.what());
    return 0;
  } catch (const CLI::ParseError& error) {
    return usage_error(app, argc > 1 ? argv[1] : "", error);
  }
  const CLI::App& command = *app.get_subcommands().front();
  common.command_line = command_line_of(argc, argv, command);
  set_cpu_isa(common.cpu_isa);
  if (computes(command)) require_threads(common.threads, kOtherThreads);
  const ThreadLimit limit(common.threads);
  return action();
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
  print_error("internal error: " + what);
  std::_Exit(exit_code(ErrorKind::kInternal));
}

int system_failure(const std::string& what) {
  print_error("the system failed: " + what);
  return exit_code(ErrorKind::kIo);
}

}  // namespace

int run_command_line(int argc, const char* const* argv) {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // writing more than `ulimit -f` allows is an error like others
  std::set_terminate(end_in_one_line);
  try {
    return parse_and_run(argc, argv);
  } catch (const Error& error) {
    print_error(error.what());
    return exit_code(error.kind());
  } catch (const std::bad_alloc&) {
    print_error(
        "out of memory; give --memory less than the system (or ulimit -v) has, or calibrate with fewer rows");
    return exit_code(ErrorKind::kRefused);
  } catch (const std::filesystem::filesystem_error& error) {
    return system_failure(error.path1().string() + ": " + error.code().message());
  } catch (const std::system_error& error) {
    return system_failure(error.what());
  } catch (const std::exception& error) {
    print_error("internal error: " + std::string(error.what()));
    return exit_code(ErrorKind::kInternal);
  }
}

}  // namespace nibblecast
