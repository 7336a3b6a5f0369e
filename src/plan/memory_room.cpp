#include "plan/memory_room.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

namespace nibblecast {
namespace {

constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();

// A number in a file such as /sys/fs/cgroup/memory.max; nothing where it says "max" or is not there.
std::optional<uint64_t> number_in(const std::string& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

std::optional<uint64_t> meminfo(const std::string& key) {
  std::ifstream file("/proc/meminfo");
  std::string name, unit;
  uint64_t value = 0;
  while (file >> name >> value) {
    std::getline(file, unit);
    if (name == key + ":") return value * 1024;
  }
  return std::nullopt;
}

// Names of one cgroup version's files.
struct CgroupFiles {
  const char *membership, *root, *limit, *used, *file_pages[2];
};
constexpr CgroupFiles kCgroupVersions[] = {
    {"0::", "/sys/fs/cgroup", "/memory.max", "/memory.current", {"active_file", "inactive_file"}},
    {":memory:",
     "/sys/fs/cgroup/memory",
     "/memory.limit_in_bytes",
     "/memory.usage_in_bytes",
     {"total_active_file", "total_inactive_file"}},
};

// What a cgroup's limit leaves; pages of files count as free, because the kernel drops them first.
uint64_t room_in(const CgroupFiles& files, const std::string& folder) {
  const auto limit = number_in(folder + files.limit);
  if (!limit) return std::numeric_limits<uint64_t>::max();
  uint64_t used = number_in(folder + files.used).value_or(0);
  std::ifstream statistics(folder + "/memory.stat");
  std::string name;
  for (uint64_t value = 0; statistics >> name >> value;) {
    if (name == files.file_pages[0] || name == files.file_pages[1]) used -= std::min(used, value);
  }
  return *limit - std::min(*limit, used);
}

// The least room from this process's cgroup up to the root. Inside a container the path may name a folder
// that is not mounted there: then only the ones that are count.
uint64_t cgroup_room() {
  uint64_t room = std::numeric_limits<uint64_t>::max();
  std::ifstream membership("/proc/self/cgroup");
  std::string line;
  while (std::getline(membership, line)) {
    for (const CgroupFiles& files : kCgroupVersions) {
      const size_t at = line.find(files.membership);
      if (at == std::string::npos) continue;
      std::filesystem::path group = line.substr(at + std::string_view(files.membership).size());
      for (;; group = group.parent_path()) {
        room = std::min(room, room_in(files, files.root + group.string()));
        if (group == group.parent_path()) break;
      }
    }
  }
  return room;
}

}  // namespace

MemoryRoom memory_room() {
  return {.system_bytes = meminfo("MemAvailable").value_or(kNoLimit),
          .cgroup_bytes = cgroup_room(),
          .installed_bytes = meminfo("MemTotal").value_or(kNoLimit)};
}

}  // namespace nibblecast
