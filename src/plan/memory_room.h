// plan/memory_room.h - what the kernel says of the memory that is left.
#pragma once

#include <cstdint>

namespace nibblecast {

// Bytes that a process may still take; the largest number where nothing limits them, or says so.
struct MemoryRoom {
  uint64_t system_bytes = 0;  // MemAvailable
  uint64_t cgroup_bytes = 0;  // of the tightest limit of this process's cgroups; pages of files count as free
  uint64_t installed_bytes = 0;  // MemTotal
};
MemoryRoom memory_room();

}  // namespace nibblecast
