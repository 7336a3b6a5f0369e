#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/preflight.h"
#include "cli/summary.h"
#include "cli/text.h"
#include "pipeline/destination.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

constexpr uint64_t kRecordLimit = 1 << 30;

// The job's folder: of an output, or of an amax file that `calibrate` is making.
Path job_folder(FileSystem& files, const Path& path) {
  const Path calibration = calibration_job_folder(path);
  return files.status(calibration / "job.json") ? calibration : path / kJobFolder;
}

std::string attempt_text(const Json& attempt, bool running) {
  const std::string ended = attempt.value("ended", ""), last = attempt.value("last", "");
  std::string text =
      fmt::format("{}, {}, version {}, process {}: ", attempt.value("began", ""), attempt.value("host", ""),
                  attempt.value("version", ""), attempt.value("pid", int64_t{0}));
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

Json unfinished_json(const JobRecord& job, bool running, bool work_folder_is_there) {
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
          {"source", job.description.source.value("path", "")},
          {"attempts", std::move(attempts)}};
}

std::string unfinished_text(const Json& status) {
  const auto number = [&](const char* group, const char* name) {
    return grouped(status[group][name].get<uint64_t>());
  };
  std::string text =
      summary_line("state", status["running"].get<bool>() ? "unfinished, and being worked on"
                                                          : "unfinished; the command that began it goes on");
  text += summary_line("source", status["source"].get<std::string>());
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
                                      : "; saved state enters layer " + status["state_before_layer"].dump()));
  }
  if (status["journal"]["torn_bytes"].get<uint64_t>() > 0) {
    text += summary_line(
        "journal", number("journal", "torn_bytes") + " bytes at its end are torn; their work is done again");
  }
  return text + attempts_text(status["attempts"], status["running"].get<bool>());
}

int report_unfinished(const JobRecord& job, const Path& folder, FileSystem& files, bool json) {
  const Json status =
      unfinished_json(job, is_running(files, folder, job.holder), files.status(job.work_folder).has_value());
  if (json)
    print_json(status);
  else
    print_data(unfinished_text(status));
  return 0;
}

int report_finished(FileSystem& files, const Path& record, bool json) {
  const Json document = parse_json(read_text(files, record, kRecordLimit), record.string());
  const Json attempts = document.value("attempts", Json::array());
  // Records of older versions hold the checksums themselves.
  const uint64_t tensors =
      document.value("tensors", uint64_t{document.value("checksums", Json::object()).size()});
  if (json) {
    print_json({{"finished", true},
                {"running", false},
                {"tensors", {{"done", tensors}, {"of", tensors}}},
                {"version", document.value("version", "")},
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
  if (files.status(path / "config.json") && files.status(path / "nibblecast.json")) {
    return report_finished(files, path / "nibblecast.json", common.json);
  }
  if (const auto job = read_job(files, folder)) return report_unfinished(*job, folder, files, common.json);
  throw Error(ErrorKind::kBadInput, {.file = destination}, "holds no job of nibblecast, finished or not");
}

}  // namespace

void add_status(CLI::App& app, CommonOptions& common, Action& action) {
  const auto destination = std::make_shared<std::string>();
  CLI::App& command = add_command(app, "status", "Says how far a job is, and how its attempts ended.",
                                  "nibblecast status DeepSeek-V4-Flash-NVFP4");
  add_text(command, "DST", *destination, "", "an output, finished or not, or an amax file being made")
      ->required();
  add_common_options(command, common);
  command.callback([destination, &common, &action] {
    action = [destination, &common] { return run(*destination, common); };
  });
}

}  // namespace nibblecast
