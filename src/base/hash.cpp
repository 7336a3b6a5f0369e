#include "base/hash.h"

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include <cstdio>

namespace nibblecast {

struct Hash::State {
  XXH3_state_t xxh;  // 64-byte aligned by its own declaration
};

Hash::Hash() : state_(std::make_unique<State>()) { XXH3_128bits_reset(&state_->xxh); }
Hash::~Hash() = default;
Hash::Hash(Hash&&) noexcept = default;
Hash& Hash::operator=(Hash&&) noexcept = default;

void Hash::add(std::span<const std::byte> bytes) {
  XXH3_128bits_update(&state_->xxh, bytes.data(), bytes.size());
}

void Hash::add_part(std::string_view part) {
  add(std::to_string(part.size()) + ":");
  add(part);
}

std::string Hash::hex() const {
  const XXH128_hash_t value = XXH3_128bits_digest(&state_->xxh);
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(value.high64),
                static_cast<unsigned long long>(value.low64));
  return text;
}

std::string hash_of(std::span<const std::byte> bytes) {
  Hash hash;
  hash.add(bytes);
  return hash.hex();
}
std::string hash_of(std::string_view text) { return hash_of(std::as_bytes(std::span(text))); }

}  // namespace nibblecast
