#include "faults/kill_runs.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <fstream>
#include <map>
#include <new>
#include <random>
#include <stdexcept>

#include "faults/timed_fields.h"
#include "pipeline/pipeline_testing.h"

namespace nibblecast::testing {
namespace {

using Path = std::filesystem::path;
using Contents = std::map<std::string, std::string>;  // path in a folder -> bytes

// The aim is at the one of these that was hit least, or at any.
constexpr std::array kWanted = {Doing::kForward, Doing::kCast,   Doing::kSaveState,
                                Doing::kJournal, Doing::kRename, Doing::kConfig};
constexpr int kReferenceRuns = 4;
constexpr uint64_t kMostLayersBetweenSavings = 3;
constexpr size_t kShownProblems = 10;

// A Watch in shared memory.
class SharedWatch {
 public:
  SharedWatch()
      : page_(::mmap(nullptr, sizeof(Watch), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
    if (page_ == MAP_FAILED) throw std::bad_alloc();
    reset();
  }
  ~SharedWatch() { ::munmap(page_, sizeof(Watch)); }
  SharedWatch(const SharedWatch&) = delete;
  SharedWatch& operator=(const SharedWatch&) = delete;

  void reset() { watch_ = new (page_) Watch(); }
  Watch& operator*() const { return *watch_; }
  Watch* operator->() const { return watch_; }

 private:
  void* page_;
  Watch* watch_ = nullptr;
};

Doing doing_of(Phase phase) {
  switch (phase) {
    case Phase::kForward:
      return Doing::kForward;
    case Phase::kMake:
      return Doing::kCast;
    case Phase::kSaveStreams:
      return Doing::kSaveState;
    case Phase::kFinish:
      return Doing::kFinish;
    case Phase::kRead:
      break;
  }
  return Doing::kRead;
}

// Without what depends on time.
Contents contents(const Path& folder) {
  Contents found;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    const std::string name = entry.path().lexically_relative(folder).string();
    if (!entry.is_regular_file() || name.starts_with(kJobFolder)) continue;
    std::string bytes = read_text(system_files(), entry.path(), 1 << 30);
    if (name == "nibblecast.json") {
      Json document = Json::parse(bytes);
      for (const char* field : kTimedFields) document.erase(field);
      bytes = document.dump();
    }
    found[name] = std::move(bytes);
  }
  return found;
}

std::string difference(const Contents& found, const Contents& expected) {
  for (const auto& [name, bytes] : expected) {
    const auto same = found.find(name);
    if (same == found.end()) return name + " is missing";
    if (same->second != bytes) return name + " differs";
  }
  for (const auto& [name, bytes] : found) {
    if (!expected.contains(name)) return name + " is too much";
  }
  return {};
}

class Killer {
 public:
  Killer(const Path& folder, const KillOptions& options)
      : source_(folder / "source"), out_(folder / "out"), options_(options), random_(options.seed) {
    usual_ns_.fill(~uint64_t{0});
    in_process([&] { options_.model.make(source_, system_files()); });
    for (int run = 0; run < kReferenceRuns; ++run) {
      std::filesystem::remove_all(out_);
      watch_.reset();
      finish(1);
      learn_times();
    }
    expected_ = contents(out_);
    report_.shard_bytes = watch_->shard_bytes_written;
    report_.seconds = static_cast<double>(whole_ns_) / 1e9;
    layers_ = watch_->layers_begun;
  }

  KillReport run() {
    while (report_.kills < options_.kills && report_.problems.empty()) one_job();
    return report_;
  }

 private:
  // waitpid()'s status of a process that does `work`; its error is in the watch.
  int in_process(const std::function<void()>& work) {
    const pid_t child = ::fork();
    if (child < 0) throw std::runtime_error("cannot fork");
    if (child == 0) {
      try {
        work();
        ::_exit(0);
      } catch (const std::exception& error) {
        std::strncpy(watch_->error, error.what(), sizeof watch_->error - 1);
      } catch (...) {
      }
      ::_exit(1);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return status;
  }

  // What the command does.
  void work(std::optional<Aim> aim, uint64_t checkpoint_every) {
    WatchedFiles files(system_files(), *watch_, out_, aim);
    const Checkpoint source = Checkpoint::open(source_, files);
    const Plan plan = make_plan(source, options_.model.options());
    const Activations rows = Activations::from_rows(tiny_rows(plan.model->vocabulary.size), "test");
    if (check_destination(files, source_, out_, describe(source, plan, rows)) ==
        DestinationState::kFinished) {
      clean_finished_destination(files, out_);
      return;
    }
    RunOptions options = small_buffers();
    options.checkpoint_every = checkpoint_every;
    options.commit_interval = std::chrono::milliseconds(5);
    std::string layer;
    options.progress = [&](const Progress& progress) {
      files.turn_to(doing_of(progress.phase));
      if (progress.phase != Phase::kForward || !progress.stage.starts_with("layer") ||
          progress.stage == layer)
        return;
      layer = progress.stage;
      ++watch_->layers_begun;
    };
    run_job(source, plan, rows, out_, options);
  }

  // Whether it was killed; otherwise it ended well.
  bool start(std::optional<Aim> aim, uint64_t checkpoint_every) {
    const int status = in_process([&] { work(aim, checkpoint_every); });
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && aim) return true;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
      problem(fmt::format("a run ends with status {}: {}", status, watch_->error));
    return false;
  }

  void finish(uint64_t checkpoint_every) {
    watch_->doing = Doing::kBegin;
    watch_->appends = 0;
    start({}, checkpoint_every);
  }

  // The shortest of all undisturbed runs: a delay that is too long misses what it is meant for.
  void learn_times() {
    uint64_t whole_ns = 0;
    for (size_t doing = 0; doing < kDoings; ++doing) {
      usual_count_[doing] = std::max<uint64_t>(1, watch_->count[doing]);
      usual_ns_[doing] = std::min(usual_ns_[doing], watch_->times[doing] / usual_count_[doing]);
      // An append stands beside something else.
      if (doing != static_cast<size_t>(Doing::kJournal)) whole_ns += watch_->times[doing];
    }
    whole_ns_ = std::min(whole_ns_, whole_ns);
  }

  double chance() { return std::uniform_real_distribution<double>(0, 1)(random_); }
  uint64_t some_of(uint64_t limit) { return static_cast<uint64_t>(chance() * static_cast<double>(limit)); }

  Aim next_aim() {
    if (chance() >= options_.aimed) return {.delay_ns = some_of(whole_ns_)};
    const auto hits_of = [&](Doing doing) { return report_.hits[static_cast<size_t>(doing)]; };
    const Doing doing = chance() < 0.75 ? *std::ranges::min_element(kWanted, {}, hits_of)
                                        : static_cast<Doing>(some_of(kDoings));
    const auto index = static_cast<size_t>(doing);
    // A run that goes on does the earlier ones only.
    const double part = chance();
    return {.doing = doing,
            .n = 1 + static_cast<uint64_t>(part * part * static_cast<double>(usual_count_[index])),
            .delay_ns = some_of(usual_ns_[index])};
  }

  void one_job() {
    std::filesystem::remove_all(out_);
    watch_.reset();
    const uint64_t checkpoint_every = 1 + some_of(kMostLayersBetweenSavings);
    uint64_t kills = 0;
    bool killed = true;
    while (killed && (kills == 0 || (chance() < options_.again && report_.kills < options_.kills))) {
      for (auto& count : watch_->count) count = 0;
      watch_->doing = Doing::kBegin;
      watch_->appends = 0;
      killed = start(next_aim(), checkpoint_every);
      if (!killed) {
        ++report_.ended_first;
        break;
      }
      report_.of_resumed_runs += kills > 0;
      ++kills;
      ++report_.kills;
      ++report_.hits[static_cast<size_t>(watch_->now())];
      check_killed();
      if (chance() < options_.harm) harm_a_shard();
    }
    if (killed) finish(checkpoint_every);
    check_end(kills, checkpoint_every);
  }

  // Its name and, half of the time, its size are all that is left of it.
  void harm_a_shard() {
    if (!std::filesystem::exists(out_) || std::filesystem::exists(out_ / "config.json")) return;
    std::vector<Path> shards;
    for (const auto& entry : std::filesystem::directory_iterator(out_)) {
      if (entry.path().string().ends_with(".safetensors.partial")) shards.push_back(entry.path());
    }
    if (shards.empty()) return;
    std::ranges::sort(shards);
    const Path& shard = shards[some_of(shards.size())];
    const uint64_t size = std::filesystem::file_size(shard);
    ++report_.harmed_shards;
    switch (some_of(4)) {
      case 0:
        std::filesystem::remove(shard);
        break;
      case 1:
        std::filesystem::resize_file(shard, size / 2);
        break;
      default:
        std::ofstream(shard, std::ios::binary) << std::string(size, 'x');
    }
  }

  // DST is no checkpoint, or a complete one; nothing durable was made again.
  void check_killed() {
    if (std::filesystem::exists(out_ / "config.json")) {
      if (const std::string wrong = difference(contents(out_), expected_); !wrong.empty())
        problem("looks finished, but " + wrong);
      return;
    }
    const auto job = read_job(system_files(), out_ / kJobFolder);
    if (!job) return;
    report_.tensors_made_twice += job->state.tensors_made_twice;
    if (job->state.tensors_made_twice > 0) problem("durable tensors were made twice");
  }

  void check_end(uint64_t kills, uint64_t checkpoint_every) {
    ++report_.jobs;
    report_.most_in_a_row = std::max(report_.most_in_a_row, kills);
    if (const std::string wrong = difference(contents(out_), expected_); !wrong.empty())
      problem("after going on, " + wrong);
    if (std::filesystem::exists(out_ / kJobFolder)) problem("the job's folder is left");
    const uint64_t again = watch_->layers_begun - layers_;
    if (again > kills * checkpoint_every)
      problem(fmt::format("{} layers again after {} kills, saving every {}", again, kills, checkpoint_every));
    report_.layers_again += again;
    if (kills == 1) report_.most_layers_again = std::max(report_.most_layers_again, again);
    report_.bytes_again += watch_->shard_bytes_written - report_.shard_bytes;
  }

  void problem(const std::string& text) {
    report_.problems.push_back(
        fmt::format("kill {} (in {}): {}", report_.kills, doing_name(watch_->now()), text));
  }

  const Path source_, out_;
  const KillOptions options_;
  std::mt19937_64 random_;
  SharedWatch watch_;
  std::array<uint64_t, kDoings> usual_count_ = {}, usual_ns_;  // of an undisturbed run; ns each time
  uint64_t whole_ns_ = ~uint64_t{0}, layers_ = 0;
  Contents expected_;
  KillReport report_;
};

}  // namespace

std::string KillReport::text() const {
  std::string text = fmt::format(
      "an undisturbed run: {:.2f} s, {} bytes of shards\n"
      "{} kills of {} jobs, {} of runs that went on, up to {} in a row; {} runs were over before "
      "their kill\n",
      seconds, shard_bytes, kills, jobs, of_resumed_runs, most_in_a_row, ended_first);
  for (size_t doing = 0; doing < kDoings; ++doing)
    text += fmt::format("  {:16}{:6}\n", doing_name(static_cast<Doing>(doing)), hits[doing]);
  const double share =
      kills == 0 ? 0 : static_cast<double>(bytes_again) / static_cast<double>(kills * shard_bytes);
  text += fmt::format(
      "durable tensors made twice: {}; layers begun again: {}, at most {} after one kill; bytes of shards "
      "written again: {:.1f} % of an output a kill; {} problems\n",
      tensors_made_twice, layers_again, most_layers_again, share * 100, problems.size());
  for (size_t index = 0; index < std::min(problems.size(), kShownProblems); ++index)
    text += "  " + problems[index] + "\n";
  return text;
}

KillReport kill_runs(const Path& folder, const KillOptions& options) { return Killer(folder, options).run(); }

}  // namespace nibblecast::testing
