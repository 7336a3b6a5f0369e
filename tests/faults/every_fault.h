// tests/faults/every_fault.h - runs a job once for every way in which its file operations can fail.
//
// Knows a job only as something to call and the bytes it is to leave, not how it resumes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "faults/faulty_files.h"
#include "faults/memory_files.h"

namespace nibblecast::testing {

using FolderContents = std::map<std::string, std::string>;  // path in the folder -> bytes

struct Job {
  // A machine with the job's input, before its first run.
  std::function<std::unique_ptr<MemoryFiles>(NameLoss)> machine;
  // The whole command; may be run again after it failed. Called from several threads, each with files of its
  // own.
  std::function<void(FileSystem&)> run;
  std::filesystem::path destination;
  // The output as it must be the same after every run: without times and the like.
  std::function<FolderContents(FolderContents)> comparable;
};

struct FaultReport {
  uint64_t operations = 0;                   // of an undisturbed run
  std::map<std::string, uint64_t> injected;  // "EIO" -> number of faults
  uint64_t finished_anyway = 0;              // failures that came after the output was complete
  std::vector<std::string> problems;         // what should not be; empty if all is well

  uint64_t total() const;
  std::string text() const;
};

// After each fault: short transfers change nothing; everything else is an Error of the right kind. DST has no
// config.json, or is complete. The command run again succeeds (it may refuse to touch what is complete), and
// the output is that of an undisturbed run to the byte.
FaultReport inject_every_fault(const Job& job, const std::vector<Failure>& failures);

// The same with the process dying at every operation and the power going with it, once for every seed below
// `seeds` and model of names.
FaultReport cut_power_everywhere(const Job& job, uint64_t seeds);

// The process dies in the first run at `samples` evenly spread operations and at each of the `last` ones, at
// which a folder turns into a checkpoint; in the second run at every one of its own. With the power too if
// `seed` is set.
FaultReport crash_twice(const Job& job, uint64_t samples, uint64_t last, std::optional<uint64_t> seed = {});

// What somebody does to a job's files between two runs of it.
struct Harm {
  std::string name;
  std::function<void(MemoryFiles&)> strike;
};

// The process dies when `percent` of the first run's operations are done, each harm befalls what it left and
// is durable, the second run dies at every one of its operations, the third one ends. With the power too, at
// both deaths, if `seed` is set.
FaultReport crash_after_harm(const Job& job, uint64_t percent, const std::vector<Harm>& harms,
                             std::optional<uint64_t> seed = {});

}  // namespace nibblecast::testing
