// base/error.h - the one exception type of nibblecast.
//
// Input, machine or user at fault: throw Error. Expected absence: std::optional. Our own bug: assert.
// A message names what is known of file, tensor and byte offset, then what was expected and found, and
// what to do about it:
//
//   model-00003.safetensors: tensor 'layers.1.ffn.gate.weight': at byte 8388616: shape does not fit
//   (expected [16, 512], found [16, 511]); was the config edited?
#pragma once

#include <cstdint>
#include <exception>
#include <optional>
#include <string>

namespace nibblecast {

// The value is the exit code of the process (the table in docs/cli.md).
enum class ErrorKind : int {
  kUsage = 2,         // unknown command, flag or value
  kBadInput = 3,      // a file's content is wrong, damaged or hostile
  kUnsupported = 4,   // well-formed, but this version cannot do it
  kRefused = 5,       // the plan cannot succeed: disk, memory, an engine's contract, a busy DST
  kVerifyFailed = 6,  // verify found at least one problem
  kIo = 7,            // the system failed to read or write
  kDiskFull = 8,      // no space left; what was written is left as `.partial`
  kInterrupted = 9,   // stopped by a signal; the same command goes on
  kDevice = 10,       // the GPU failed; the same command goes on
  kInternal = 70,     // our bug
};

// Where in the input the fault lies; whatever is set is printed.
struct Where {
  std::string file = {};
  std::string tensor = {};
  std::optional<uint64_t> offset = {};  // byte offset in `file`
};

struct Detail {
  std::string expected = {};
  std::string found = {};
  std::string hint = {};  // what the user can do
};

class Error : public std::exception {
 public:
  Error(ErrorKind kind, Where where, std::string problem, Detail detail = {});

  const char* what() const noexcept override { return message_.c_str(); }
  ErrorKind kind() const { return kind_; }
  const Where& where() const { return where_; }
  const std::string& problem() const { return problem_; }
  const Detail& detail() const { return detail_; }

 private:
  ErrorKind kind_;
  Where where_;
  std::string problem_;
  Detail detail_;
  std::string message_;  // all of these
};

}  // namespace nibblecast
