// fuzz/job_folder.h - the folder of a job that was begun, in memory.
#pragma once

#include <map>
#include <string>

#include "faults/memory_files.h"
#include "fuzzing.h"
#include "pipeline/job.h"

namespace nibblecast::fuzzing {

// Its files, made once by Job itself.
inline const std::map<std::string, std::string>& begun_job() {
  static const auto files = [] {
    testing::MemoryFiles machine;
    Job::open(machine, "/j", "",
              {.identity = {{"plan", "1"}},
               .source = {{"path", "/s"}, {"shards", Json::array()}},
               .totals = {{"tensors", 4}, {"bytes", 64}, {"layers", 2}},
               .options = Json::object(),
               .command = {}});
    return machine.contents("/j");
  }();
  return files;
}

// The same folder again, but for one file.
inline void put_job(FileSystem& machine, const std::string& other_name, std::string_view other) {
  for (const auto& [name, content] : begun_job())
    if (name != other_name) put_file(machine, "/j/" + name, content);
  put_file(machine, "/j/" + other_name, other);
}

}  // namespace nibblecast::fuzzing
