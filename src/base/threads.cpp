#include "base/threads.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
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

// Of the process: 0 where it is not known.
uint64_t address_space_used() {
  std::ifstream file("/proc/self/statm");
  uint64_t pages = 0;
  file >> pages;
  return pages * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

// oneDNN dies where the system has no place for the code that it makes. Beside a thread's stack (8 MiB)
// malloc takes 128 MiB for an arena, of which it keeps half.
void require_address_space(size_t threads) {
  constexpr uint64_t kLibraryBytes = uint64_t{1} << 30, kThreadBytes = uint64_t{136} << 20;
  rlimit limit = {};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
  const uint64_t need = address_space_used() + kLibraryBytes + kThreadBytes * threads;
  if (limit.rlim_cur >= need) return;
  throw Error(ErrorKind::kRefused, {}, "the address space is too small for the libraries",
              {.expected = fmt::format("ulimit -v {} or more", need / 1024),
               .found = fmt::format("{}", limit.rlim_cur / 1024),
               .hint = "raise that limit, or take it away: --memory bounds what the program takes"});
}

}  // namespace

std::thread start_thread(std::function<void()> work) {
  try {
    return std::thread(std::move(work));
  } catch (const std::system_error& error) {
    throw no_thread(std::string("cannot start a thread: ") + error.code().message(),
                    ", or give fewer --threads");
  }
}

void run_on_threads(size_t count, size_t threads, const std::function<void(size_t)>& f) {
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  std::exception_ptr error;
  const auto guarded = [&](const auto& step) {
    try {
      step();
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
      next = count;
    }
  };
  const auto work = [&] {
    guarded([&] {
      for (size_t index; (index = next++) < count;) f(index);
    });
  };
  std::vector<std::thread> others;
  guarded([&] {
    while (others.size() + 1 < std::min(threads, count)) others.push_back(start_thread(work));
  });
  work();
  for (std::thread& thread : others) thread.join();
  if (error) std::rethrow_exception(error);
}

void require_threads(size_t threads, size_t others) {
  size_t started = 0;
  {
    Waiting waiting;
    while (started < threads + others && waiting.add()) ++started;
  }
  if (started == threads + others) return require_address_space(threads);
  throw no_thread(fmt::format("--threads {} and {} that wait for disks are needed, and the system starts {}",
                              threads, others, started),
                  started > others ? fmt::format(", or give --threads {}", started - others) : "");
}

}  // namespace nibblecast
