// base/file_lock.h - FileSystem::try_lock of the system's files; for base/ only.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/file.h"

namespace nibblecast {

// flock(2): it belongs to the open file description, so that it dies with the process, conflicts within one
// process too, and is not lost when somebody else in the process opens and closes the same file (as POSIX
// record locks are). NFS carries it to the server.
std::unique_ptr<FileLock> lock_system_file(const std::string& path, std::string_view holder);

}  // namespace nibblecast
