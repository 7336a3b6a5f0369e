#include "base/threads.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <condition_variable>
#include <fstream>
#include <mutex>
#include <string>
#include <system_error>
#include <vector>

#include "base/error.h"

namespace nibblecast {
namespace {

// What may be the reason, of what is set: "ulimit -u is 40, pids.max is 64".
std::string limits_text() {
  std::vector<std::string> limits;
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NPROC, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    limits.push_back(fmt::format("ulimit -u is {}", limit.rlim_cur));
  if (::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    limits.push_back(fmt::format("ulimit -v is {}", limit.rlim_cur / 1024));
  for (const char* path : {"/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"}) {
    std::ifstream file(path);
    std::string most;
    if (file >> most && most != "max") limits.push_back("the container's pids.max is " + most);
  }
  return limits.empty() ? "a limit on processes or memory" : fmt::format("{}", fmt::join(limits, ", "));
}

Error no_thread(const std::string& problem, const std::string& remedy) {
  return Error(ErrorKind::kRefused, {}, problem + " (" + limits_text() + ")",
               {.hint = "raise that limit" + remedy});
}

// Threads that wait until they are let go.
class Waiting {
 public:
  ~Waiting() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  // False where the system refuses.
  bool add() {
    try {
      threads_.emplace_back([this] {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return over_; });
      });
    } catch (const std::system_error&) {
      return false;
    }
    return true;
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  bool over_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

std::thread start_thread(std::function<void()> work) {
  try {
    return std::thread(std::move(work));
  } catch (const std::system_error& error) {
    throw no_thread(std::string("cannot start a thread: ") + error.code().message(),
                    ", or give fewer --threads");
  }
}

void require_threads(size_t threads, size_t others) {
  size_t started = 0;
  {
    Waiting waiting;
    while (started < threads + others && waiting.add()) ++started;
  }
  if (started == threads + others) return;
  throw no_thread(fmt::format("--threads {} and {} that wait for disks are needed, and the system starts {}",
                              threads, others, started),
                  started > others ? fmt::format(", or give --threads {}", started - others) : "");
}

}  // namespace nibblecast
