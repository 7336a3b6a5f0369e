// base/hash.h - XXH3-128 (xxHash), for identities and checksums. Not cryptographic.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace nibblecast {

// Incremental; feeding a text in pieces gives the same as feeding it whole.
class Hash {
 public:
  Hash();
  ~Hash();
  Hash(Hash&&) noexcept;
  Hash& operator=(Hash&&) noexcept;

  void add(std::span<const std::byte> bytes);
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }
  // Its length first, so that parts cannot run into one another.
  void add_part(std::string_view part);
  // 32 lower-case hexadecimal digits, most significant first (as `xxh128sum` prints).
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// hex() of these alone.
std::string hash_of(std::span<const std::byte> bytes);
std::string hash_of(std::string_view text);

}  // namespace nibblecast
