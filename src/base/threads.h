// base/threads.h - threads, of which a system may have none left.
#pragma once

#include <cstddef>
#include <functional>
#include <thread>

namespace nibblecast {

// Error kRefused, naming the limits that are set, where the system starts no more.
std::thread start_thread(std::function<void()> work);

// Starts `threads` (as --threads says) and `others` at once, which end again: kRefused where the system does
// not start them all, or where a limit on the address space (ulimit -v) leaves libraries too little of it. For
// libraries that cannot say that a thread or memory was refused: ask before.
void require_threads(size_t threads, size_t others);

}  // namespace nibblecast
