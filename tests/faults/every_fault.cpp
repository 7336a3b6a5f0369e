#include "faults/every_fault.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <iterator>
#include <mutex>
#include <optional>
#include <thread>

#include "base/error.h"

namespace nibblecast::testing {
namespace {

constexpr unsigned kThreads = 2;
constexpr size_t kShownProblems = 10;

// How a run ended: nothing, or the Error, or the process died.
struct End {
  std::optional<Error> error = {};
  bool died = false;
  std::string other = {};  // an exception that should not leave the program
  bool succeeded() const { return !error && !died && other.empty(); }
  std::string text() const {
    return error ? error->what() : died ? "the process died" : other.empty() ? "success" : other;
  }
};

End run(const Job& job, FileSystem& files) {
  End end;
  try {
    job.run(files);
  } catch (const Error& error) {
    end.error = error;
  } catch (const ProcessDied&) {
    end.died = true;
  } catch (const std::exception& exception) {
    end.other = std::string("not an Error: ") + exception.what();
  } catch (...) {
    end.other = "not an Error";
  }
  return end;
}

std::string difference(const FolderContents& found, const FolderContents& expected) {
  for (const auto& [path, bytes] : expected) {
    const auto same = found.find(path);
    if (same == found.end()) return path + " is missing";
    if (same->second != bytes) return path + " differs";
  }
  for (const auto& [path, bytes] : found) {
    if (!expected.contains(path)) return path + " is too much";
  }
  return {};
}

// What one kind of test does to a job; the same for all its cases.
class Trial {
 public:
  explicit Trial(const Job& job) : job_(job) {
    const auto machine = job.machine(NameLoss::kAnySubset);
    FaultyFiles counting(*machine);
    job.run(counting);
    report_.operations = counting.count();
    for (size_t index = 0; index < kOperations; ++index)
      counts_[index] = counting.count(static_cast<Operation>(index));
    expected_ = output(*machine);
  }

  const std::array<uint64_t, kOperations>& counts() const { return counts_; }
  uint64_t operations() const { return report_.operations; }

  // Runs `one(index)` for every index below `cases`.
  FaultReport all(size_t cases, const std::function<void(size_t)>& one) {
    std::atomic<size_t> next = 0;
    std::vector<std::thread> threads;
    for (unsigned thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&] {
        for (size_t index = next++; index < cases; index = next++) {
          try {
            one(index);
          } catch (const std::exception& exception) {
            problem(fmt::format("case {}: {}", index, exception.what()));
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    return report_;
  }

  // Runs the job with the fault; false if it was not hit. `may_refuse`: the output is complete.
  bool strike(MemoryFiles& machine, const Fault& fault, std::string& what, bool may_refuse = false) {
    FaultyFiles faulty(machine, fault);
    const End end = run(job_, faulty);
    const std::optional<std::string> hit = faulty.hit();
    if (!hit) {
      const bool refused = end.error && end.error->kind() == ErrorKind::kRefused;
      if (!end.succeeded() && !(may_refuse && refused))
        problem(what + "fails without a fault: " + end.text());
      return false;
    }
    what += fmt::format("{} at {} (number {}): ", failure_name(fault.failure), *hit, fault.n);
    {
      const std::lock_guard lock(mutex_);
      ++report_.injected[failure_name(fault.failure)];
    }
    if (const std::string wrong = judge(end, fault.failure); !wrong.empty()) problem(what + wrong);
    return true;
  }

  // DST is no checkpoint yet, or a complete one. `by_failing`: the run that left it did not succeed.
  bool check_unfinished(const MemoryFiles& machine, const std::string& what, bool by_failing = true) {
    const FolderContents found = machine.contents(job_.destination);
    if (!found.contains("config.json")) return false;
    const std::string wrong = difference(output(machine), expected_);
    if (!wrong.empty()) problem(what + "looks finished, but " + wrong);
    const std::lock_guard lock(mutex_);
    report_.finished_anyway += by_failing;
    return wrong.empty();
  }

  void check_resume(MemoryFiles& machine, bool complete, const std::string& what) {
    const End end = run(job_, machine);
    const bool refused = end.error && end.error->kind() == ErrorKind::kRefused;
    if (!end.succeeded() && !(complete && refused)) problem(what + "does not resume: " + end.text());
    const std::string wrong = difference(output(machine), expected_);
    if (!wrong.empty()) problem(what + "after resuming, " + wrong);
  }

  // Of a run that ended in order.
  void check_output(const MemoryFiles& machine, const std::string& what) {
    const std::string wrong = difference(output(machine), expected_);
    if (!wrong.empty()) problem(what + "without another fault, " + wrong);
  }

  void problem(const std::string& text) {
    const std::lock_guard lock(mutex_);
    report_.problems.push_back(text);
  }

  const Job& job() const { return job_; }

 private:
  FolderContents output(const MemoryFiles& machine) const {
    return job_.comparable(machine.contents(job_.destination));
  }

  static std::string judge(const End& end, Failure failure) {
    if (!end.other.empty() && failure != Failure::kCrash) return end.text();
    switch (failure) {
      case Failure::kOneByte:
      case Failure::kHalf:
        return end.succeeded() ? "" : "a short transfer is no failure: " + end.text();
      case Failure::kCrash:
        return "";  // however it left: nothing it did afterwards reached a file
      default:
        break;
    }
    if (!end.error) return "is not noticed: " + end.text();
    const bool full = failure == Failure::kEnospc || failure == Failure::kEdquot;
    const ErrorKind kind = full ? ErrorKind::kDiskFull : ErrorKind::kIo;
    return end.error->kind() == kind ? "" : "is another kind of Error: " + end.text();
  }

  const Job& job_;
  std::array<uint64_t, kOperations> counts_ = {};
  FolderContents expected_;
  std::mutex mutex_;
  FaultReport report_;
};

}  // namespace

uint64_t FaultReport::total() const {
  uint64_t total = 0;
  for (const auto& [failure, count] : injected) total += count;
  return total;
}

std::string FaultReport::text() const {
  std::string text = fmt::format("{} faults in a run of {} file operations:", total(), operations);
  for (const auto& [failure, count] : injected) text += fmt::format(" {} {},", count, failure);
  text += fmt::format(" {} of them after the output was complete; {} problems\n", finished_anyway,
                      problems.size());
  for (size_t index = 0; index < std::min(problems.size(), kShownProblems); ++index)
    text += "  " + problems[index] + "\n";
  return text;
}

FaultReport inject_every_fault(const Job& job, const std::vector<Failure>& failures) {
  Trial trial(job);
  std::vector<Fault> faults;
  for (size_t index = 0; index < kOperations; ++index) {
    const auto operation = static_cast<Operation>(index);
    for (const Failure failure : failures) {
      if (!can_fail(operation, failure)) continue;
      for (uint64_t n = 0; n < trial.counts()[index]; ++n) faults.push_back({operation, n, failure});
    }
  }
  return trial.all(faults.size(), [&](size_t index) {
    std::string what;
    const auto machine = job.machine(NameLoss::kAnySubset);
    if (!trial.strike(*machine, faults[index], what)) return;
    const bool by_failing =
        faults[index].failure != Failure::kOneByte && faults[index].failure != Failure::kHalf;
    trial.check_resume(*machine, trial.check_unfinished(*machine, what, by_failing), what);
  });
}

FaultReport cut_power_everywhere(const Job& job, uint64_t seeds) {
  Trial trial(job);
  constexpr std::array kModels = {NameLoss::kJournal, NameLoss::kAnySubset};
  // One more than there are operations: the power may also go right after the last.
  const uint64_t moments = trial.operations() + 1;
  return trial.all(moments * seeds * kModels.size(), [&](size_t index) {
    const uint64_t moment = index % moments;
    const uint64_t seed = index / moments / kModels.size();
    const NameLoss loss = kModels[index / moments % kModels.size()];
    std::string what = fmt::format("{} {}: ", loss == NameLoss::kJournal ? "journal" : "any subset", seed);
    const auto machine = job.machine(loss);
    trial.strike(*machine, {{}, moment, Failure::kCrash}, what);
    machine->power_cut(seed * moments + moment);
    trial.check_resume(*machine, trial.check_unfinished(*machine, what), what);
  });
}

FaultReport crash_twice(const Job& job, uint64_t samples, uint64_t last, std::optional<uint64_t> seed) {
  Trial trial(job);
  const uint64_t operations = trial.operations();
  std::vector<uint64_t> first;
  for (uint64_t sample = 0; sample < samples; ++sample) first.push_back(sample * operations / samples);
  for (uint64_t left = 1; left <= last; ++left) first.push_back(operations - left);
  // A run that resumes may look at more than one that begins.
  const uint64_t second = operations * 5 / 4;
  return trial.all(first.size() * second, [&](size_t index) {
    std::string what;
    const auto machine = job.machine(NameLoss::kAnySubset);
    trial.strike(*machine, {{}, first[index / second], Failure::kCrash}, what);
    if (seed) machine->power_cut(*seed + index);
    const bool complete = trial.check_unfinished(*machine, what);
    if (!trial.strike(*machine, {{}, index % second, Failure::kCrash}, what, complete)) return;
    if (seed) machine->power_cut(*seed + index + 1);
    trial.check_resume(*machine, trial.check_unfinished(*machine, what), what);
  });
}

FaultReport crash_after_harm(const Job& job, uint64_t percent, const std::vector<Harm>& harms,
                             std::optional<uint64_t> seed) {
  Trial trial(job);
  const uint64_t first = trial.operations() * percent / 100;
  const uint64_t second = trial.operations() * 5 / 4;
  return trial.all(harms.size() * second, [&](size_t index) {
    const Harm& harm = harms[index / second];
    std::string what;
    const auto machine = job.machine(NameLoss::kAnySubset);
    trial.strike(*machine, {{}, first, Failure::kCrash}, what);
    if (seed) machine->power_cut(*seed + index);
    harm.strike(*machine);
    machine->sync_all();
    what += harm.name + ", ";
    if (!trial.strike(*machine, {{}, index % second, Failure::kCrash}, what)) {
      trial.check_output(*machine, what);
      return;
    }
    if (seed) machine->power_cut(*seed + index + 1);
    trial.check_resume(*machine, trial.check_unfinished(*machine, what), what);
  });
}

}  // namespace nibblecast::testing
