#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <memory>

#include "base/error.h"
#include "base/shell.h"
#include "calibration/amax_file.h"
#include "checkpoint/run_record.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/job_folder.h"
#include "cli/reply.h"
#include "cli/summary.h"
#include "cli/text.h"
#include "pipeline/job.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

constexpr uint64_t kRecordLimit = 1 << 30;
constexpr double kLeastSeconds = 2;  // times are kept in seconds

std::string attempt_text(const Json& attempt, bool running) {
  const std::string ended = attempt.value("ended", ""), last = attempt.value("last", "");
  // A finished output says neither host nor process: it may be published.
  const std::string host = attempt.value("host", "");
  std::string text = attempt.value("began", "") + (host.empty() ? "" : ", " + host) + ", version " +
                     attempt.value("version", "");
  if (const int64_t process = attempt.value("pid", int64_t{0})) text += fmt::format(", process {}", process);
  text += ": ";
  if (!ended.empty()) return text + attempt.value("end", "") + " (" + ended + ")";
  text += running ? "at work" : "killed";
  return text + (last.empty() ? " before anything was durable" : ", durable up to " + last);
}

std::string attempts_text(const Json& attempts, bool running) {
  std::string text;
  for (size_t index = 0; index < attempts.size(); ++index) {
    const bool is_last = index + 1 == attempts.size();
    text += summary_line(index == 0 ? "attempts" : "", attempt_text(attempts[index], running && is_last));
  }
  return text;
}

// Whether somebody holds the job's lock. A folder that cannot be written to has no one at work in it.
bool is_running(FileSystem& files, const Path& folder, const std::string& holder) {
  if (!files.status(folder / "lock")) return false;
  try {
    return files.try_lock(folder / "lock", holder) == nullptr;
  } catch (const Error&) {
    return false;
  }
}

// How fast the last attempt was, and how long it takes to the end at that rate: of layers where there is a
// forward pass, else of bytes made durable.
struct Pace {
  double done = 0, of = 0;
  double per_second = 0;  // 0: not known
  bool is_bytes = true;
  double share() const { return of > 0 ? done / of : 0; }
};

Pace pace_of(const JobRecord& job, bool running) {
  const Json& totals = job.description.totals;
  Pace pace;
  // Where there is a forward pass, it is what takes the time.
  pace.of = static_cast<double>(totals.value("layers", uint64_t{0}));
  pace.is_bytes = pace.of == 0;
  if (pace.is_bytes) pace.of = static_cast<double>(totals.value("bytes", uint64_t{0}));
  pace.done = static_cast<double>(pace.is_bytes ? job.state.durable_bytes : job.state.layers.size());
  if (job.state.attempts.empty()) return pace;
  const Attempt& last = job.state.attempts.back();
  // Killed: it worked as long as it wrote.
  const double end =
      running ? static_cast<double>(std::time(nullptr)) : static_cast<double>(job.journal_changed_ns) / 1e9;
  const double seconds = end - static_cast<double>(utc_seconds(last.began).value_or(0));
  const double made = static_cast<double>(pace.is_bytes ? last.bytes : last.layers);
  if (seconds >= kLeastSeconds && made > 0) pace.per_second = made / seconds;
  return pace;
}

Json pace_json(const Pace& pace) {
  const bool known = pace.per_second > 0;
  return {{"percent", 100 * pace.share()},
          {pace.is_bytes ? "bytes_per_second" : "layers_per_second", known ? Json(pace.per_second) : Json()},
          {"seconds_left", known ? Json((pace.of - pace.done) / pace.per_second) : Json()}};
}

std::string pace_text(const Pace& pace, bool running) {
  std::string text = fmt::format("{:.0f} %", 100 * pace.share());
  if (pace.per_second <= 0) return text;
  text += pace.is_bytes ? ", " + rate_text(pace.per_second)
                        : fmt::format(", {} a layer", duration_text(1 / pace.per_second));
  return text + fmt::format(", about {} {}", duration_text((pace.of - pace.done) / pace.per_second),
                            running ? "left" : "of work left");
}

// Ready to be pasted.
std::string begun_by(const JobDescription& job) {
  if (!job.command) return "";
  std::error_code ignored;
  const bool here = std::filesystem::current_path(ignored) == Path(job.command->folder);
  return (here ? "" : "cd " + shell_word(job.command->folder) + " && ") + command_text(*job.command);
}

Json unfinished_json(const JobRecord& job, const Path& destination, bool running, bool work_folder_is_there) {
  const JobState& state = job.state;
  Json attempts = Json::array(), passes = Json::object();
  for (const Attempt& attempt : state.attempts) attempts.push_back(attempt.json());
  for (const auto& [layer, count] : state.layer_passes) passes[std::to_string(layer)] = count;
  const Json& totals = job.description.totals;
  return {{"finished", false},
          {"running", running},
          {"holder", running ? Json(job.holder) : Json()},
          {"tensors", {{"done", state.tensors.size()}, {"of", totals.value("tensors", uint64_t{0})}}},
          {"bytes", {{"done", state.durable_bytes}, {"of", totals.value("bytes", uint64_t{0})}}},
          {"layers", {{"calibrated", state.layers.size()}, {"of", totals.value("layers", uint64_t{0})}}},
          {"state_before_layer", state.streams ? Json(state.streams->layer) : Json()},
          {"layer_passes", std::move(passes)},
          {"tensors_made_twice", state.tensors_made_twice},
          {"journal", {{"bytes", job.journal_bytes}, {"torn_bytes", job.torn_bytes}}},
          {"work_folder", job.work_folder.string()},
          {"work_folder_is_there", work_folder_is_there},
          {"source", {{"path", job.description.source.value("path", "")}}},
          {"destination", destination.string()},
          {"begun_by", begun_by(job.description)},
          {"resume", "nibblecast resume " + shell_word(destination.string())},
          {"pace", pace_json(pace_of(job, running))},
          {"attempts", std::move(attempts)}};
}

std::string unfinished_text(const Json& status, const Pace& pace) {
  const auto number = [&](const char* group, const char* name) {
    return grouped(status[group][name].get<uint64_t>());
  };
  std::string text =
      summary_line("state", status["running"].get<bool>()
                                ? "unfinished, and being worked on"
                                : "unfinished; `" + status["resume"].get<std::string>() + "` goes on");
  text += summary_line("source", status["source"]["path"].get<std::string>());
  if (!status["begun_by"].get_ref<const std::string&>().empty())
    text += summary_line("command", status["begun_by"].get<std::string>());
  if (!status["work_folder_is_there"].get<bool>()) {
    return text +
           summary_line("problem", "the job's work folder " + status["work_folder"].get<std::string>() +
                                       " is not there: mount or restore it");
  }
  if (status["tensors"]["of"].get<uint64_t>() > 0) {
    text += summary_line(
        "done", fmt::format("{} of {} tensors, {} of {} bytes", number("tensors", "done"),
                            number("tensors", "of"), number("bytes", "done"), number("bytes", "of")));
  }
  if (status["layers"]["of"].get<uint64_t>() > 0) {
    text += summary_line(
        "calibrated", fmt::format("{} of {} layers{}", number("layers", "calibrated"), number("layers", "of"),
                                  status["state_before_layer"].is_null()
                                      ? ""
                                      : fmt::format("; the state after layer {} is saved",
                                                    status["state_before_layer"].get<uint64_t>() - 1)));
  }
  if (pace.of > 0) text += summary_line("pace", pace_text(pace, status["running"].get<bool>()));
  if (status["journal"]["torn_bytes"].get<uint64_t>() > 0) {
    text += summary_line(
        "journal", number("journal", "torn_bytes") + " bytes at its end are torn; their work is done again");
  }
  return text + attempts_text(status["attempts"], status["running"].get<bool>());
}

int report_unfinished(const JobRecord& job, const Path& destination, const Path& folder, FileSystem& files,
                      bool json) {
  const bool running = is_running(files, folder, job.holder);
  const Json status = unfinished_json(job, destination, running, files.status(job.work_folder).has_value());
  if (json)
    set_reply(status);
  else
    print_data(unfinished_text(status, pace_of(job, running)));
  return 0;
}

// What `calibrate` made; its job's folder is gone.
int report_finished_amax(FileSystem& files, const Path& path, bool json) {
  const AmaxFile amax = read_amax(files, path);
  if (json)
    set_reply({{"destination", path.string()},
               {"finished", true},
               {"running", false},
               {"layers", {{"calibrated", amax.layers.size()}, {"of", amax.layers.size()}}}});
  else
    print_data(summary_line("state", "finished") +
               summary_line("calibrated", fmt::format("{} layers", amax.layers.size())));
  return 0;
}

int report_finished(const Path& record, const Json& document, bool json) {
  const Json attempts = document.value("attempts", Json::array());
  // Records of older versions hold the checksums themselves.
  const uint64_t tensors =
      document.value("tensors", uint64_t{document.value("checksums", Json::object()).size()});
  if (json) {
    set_reply({{"destination", record.parent_path().string()},
               {"finished", true},
               {"finished_at", document.value("finished", "")},
               {"running", false},
               {"tensors", {{"done", tensors}, {"of", tensors}}},
               {"attempts", attempts}});
    return 0;
  }
  print_data(summary_line("state", "finished " + document.value("finished", "")) +
             summary_line("done", grouped(tensors) + " tensors") + attempts_text(attempts, false));
  return 0;
}

int run(const std::string& destination, const CommonOptions& common) {
  FileSystem& files = system_files();
  const Path path = destination, folder = job_folder(files, path);
  if (is_finished(files, path)) {
    const Path record = path / kRecordName;
    const Json document = parse_json(read_text(files, record, kRecordLimit), record.string());
    try {
      return report_finished(record, document, common.json);
    } catch (const Json::exception& error) {
      throw Error(
          ErrorKind::kBadInput, {.file = record.string()},
          std::string("does not hold what a record holds: ") + error.what(),
          {.hint = "was it edited? The weights are none the worse: `nibblecast verify` looks at them"});
    }
  }
  if (const auto job = read_job(files, folder))
    return report_unfinished(*job, path, folder, files, common.json);
  const auto status = files.status(path);
  if (status && !status->is_folder) return report_finished_amax(files, path, common.json);
  throw Error(ErrorKind::kBadInput, {.file = destination}, "holds no job of nibblecast, finished or not");
}

}  // namespace

void add_status(CLI::App& app, CommonOptions& common, Action& action) {
  const auto destination = std::make_shared<std::string>();
  CLI::App& command = add_command(app, "status", "Says how far a job is, and how its attempts ended.",
                                  "nibblecast status DeepSeek-V4-Flash-NVFP4");
  add_path(command, "DST", *destination, "", "an output, finished or not, or an amax file being made")
      ->required();
  add_common_options(command, common);
  command.callback([destination, &common, &action] {
    action = [destination, &common] { return run(*destination, common); };
  });
}

}  // namespace nibblecast
