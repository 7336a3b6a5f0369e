// base/threads.h - threads, of which a system may have none left.
#pragma once

#include <cstddef>
#include <functional>
#include <thread>

namespace nibblecast {

// Error kRefused, naming the limits that are set, where the system starts no more.
std::thread start_thread(std::function<void()> work);

// f(0) ... f(count - 1) on at most `threads` threads, this one among them: for work that waits, for a server
// say (for what computes there is parallel_for()). The first error, start_thread()'s too, ends it: it is
// thrown when every thread has ended.
void run_on_threads(size_t count, size_t threads, const std::function<void(size_t)>& f);

// Starts `threads` (as --threads says) and `others` at once, which end again: kRefused where the system does
// not start them all, or where a limit on the address space (ulimit -v) leaves libraries too little of it.
// For libraries that cannot say that a thread or memory was refused: ask before.
void require_threads(size_t threads, size_t others);

}  // namespace nibblecast
