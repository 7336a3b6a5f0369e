// cli/doctor_checks.h - what this machine is good for, one thing at a time.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"

namespace nibblecast {

struct Check {
  std::string name;               // "gpu"
  std::string found;              // for people
  std::string remedy = {};        // one line; empty: nothing need be done
  Json figures = Json::object();  // the same as numbers, by key
};

Check check_processor(size_t usable_processors);
Check check_products();  // half a second on all processors
Check check_gpu();
Check check_memory();
// Writes and reads 256 MiB in an unnamed file on the disk of `folder`, where it can.
Check check_disk(const std::filesystem::path& folder);
// Reads at most 64 MiB of a model on a server.
Check check_line(const std::string& source);
Check check_certificates();
std::vector<Check> check_build();  // CUDA, Parquet

}  // namespace nibblecast
