#include "base/threads.h"

#include <gmock/gmock.h>
#include <sys/resource.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "base/error.h"
#include "testing.h"

namespace nibblecast {
namespace {

// No more address space than there is now and a little: the stacks of many threads do not fit.
void limit_memory() {
  uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlimit limit = {.rlim_cur = pages * 4096 + (96 << 20), .rlim_max = RLIM_INFINITY};
  ::setrlimit(RLIMIT_AS, &limit);
}

[[noreturn]] void print_and_exit(const Error& error) {
  std::fprintf(stderr, "%s", error.what());
  std::_Exit(static_cast<int>(error.kind()));
}

TEST(Threads, AsManyAsAreThere) { EXPECT_NO_THROW(require_threads(3, 5)); }

TEST(Threads, TooManyAreRefusedNamingTheLimitAndWhatWouldDo) {
  EXPECT_EXIT(
      {
        limit_memory();
        try {
          require_threads(500, 2);
        } catch (const Error& error) {
          print_and_exit(error);
        }
      },
      ::testing::ExitedWithCode(5),
      ::testing::AllOf(::testing::HasSubstr("--threads 500"), ::testing::HasSubstr("ulimit -v is "),
                       ::testing::HasSubstr("or give --threads ")));
}

TEST(Threads, OneThatCannotBeStartedIsAnError) {
  EXPECT_EXIT(
      {
        limit_memory();
        std::vector<std::thread> threads;
        try {
          for (int count = 0; count < 500; ++count)
            threads.push_back(start_thread([] { std::this_thread::sleep_for(std::chrono::hours(1)); }));
        } catch (const Error& error) {
          print_and_exit(error);
        }
      },
      ::testing::ExitedWithCode(5), ::testing::HasSubstr("cannot start a thread: "));
}

TEST(RunOnThreads, DoesEachOnceOnAnyNumberOfThem) {
  for (const size_t threads : {1, 3, 100}) {
    for (const size_t count : {0, 1, 50}) {
      std::vector<std::atomic<int>> done(count);
      run_on_threads(count, threads, [&](size_t index) { ++done[index]; });
      for (const std::atomic<int>& times : done) EXPECT_EQ(times, 1);
    }
  }
}

TEST(RunOnThreads, TheFirstErrorEndsItAndIsThrown) {
  for (const size_t threads : {1, 4}) {
    std::atomic<size_t> done = 0;
    testing::expect_error(
        ErrorKind::kIo,
        [&] {
          run_on_threads(1000, threads, [&](size_t index) {
            if (index == 10) throw Error(ErrorKind::kIo, {}, "the eleventh");
            ++done;
          });
        },
        "the eleventh");
    if (threads == 1) {
      EXPECT_EQ(done, 10u);
    }
  }
}

}  // namespace
}  // namespace nibblecast
