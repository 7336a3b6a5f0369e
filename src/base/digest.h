// base/digest.h - the cryptographic checksums by which the Hugging Face Hub names files (OpenSSL, which takes
// a processor's own instructions for them).
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace nibblecast {

// Incremental; feeding a text in pieces gives the same as feeding it whole.
class Digest {
 public:
  enum class Kind { kSha1, kSha256 };

  // kUnsupported where the system's OpenSSL has it switched off.
  explicit Digest(Kind kind);
  ~Digest();
  Digest(Digest&&) noexcept;

  void add(std::span<const std::byte> bytes);
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }
  // Lower-case hexadecimal digits: 40 or 64. Once, at the end.
  std::string hex();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nibblecast
