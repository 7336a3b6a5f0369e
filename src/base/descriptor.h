// base/descriptor.h - what the code that makes system calls on files shares; for base/ and the file systems
// of tests.
#pragma once

#include <cerrno>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace nibblecast {

// kDiskFull for ENOSPC and EDQUOT, else kIo: "PATH: cannot ACTION: reason".
[[noreturn]] void throw_system_error(const std::string& path, const char* action, int error,
                                     std::optional<uint64_t> offset = {});

// kBadInput: what is to be read is not there.
[[noreturn]] void throw_missing_input(const std::string& path, const char* action);

// Owns a file descriptor.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor();
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// The same call until no signal interrupts it. Its result; errno is the call's.
template <class Call>
auto uninterrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

// Opens a regular file with open(2)'s `flags` and mode 0644; an Error "cannot ACTION: ..." otherwise. Never
// blocks and never touches a device. What is no regular file is an Error that names what it is: kBadInput, as
// is a file that is missing, where it is only to be read, else kIo.
Descriptor open_regular(const std::string& path, int flags, const char* action);

// The two descriptors, or the descriptor and the path, name one file. False where either is not to be
// examined.
bool same_file(const Descriptor& a, const Descriptor& b);
bool same_file(const Descriptor& a, const std::string& path);

}  // namespace nibblecast
