// tests/pipeline/sha256.h - SHA-256 (FIPS 180-4), in which goldens made by other programs are written.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

namespace nibblecast::testing {

class Sha256 {
 public:
  // In lower-case hexadecimal digits.
  static std::string hex(std::span<const std::byte> bytes) {
    std::vector<uint8_t> text(bytes.size());
    for (size_t at = 0; at < bytes.size(); ++at) text[at] = static_cast<uint8_t>(bytes[at]);
    text.push_back(0x80);
    while (text.size() % 64 != 56) text.push_back(0);
    for (int shift = 56; shift >= 0; shift -= 8)
      text.push_back(static_cast<uint8_t>(uint64_t{bytes.size()} * 8 >> shift));
    Sha256 hash;
    for (size_t at = 0; at < text.size(); at += 64) hash.add_block(&text[at]);
    std::string digits;
    for (const uint32_t word : hash.state_) {
      char part[9];
      std::snprintf(part, sizeof part, "%08x", word);
      digits += part;
    }
    return digits;
  }

 private:
  // The first 32 bits of the fractions of the roots of the first 64 primes; square roots begin the state.
  struct Constants {
    std::array<uint32_t, 64> cube_roots{};
    std::array<uint32_t, 8> square_roots{};
    Constants() {
      const auto fraction = [](long double root) {
        return static_cast<uint32_t>((root - std::floor(root)) * 0x1p32L);
      };
      size_t found = 0;
      for (uint32_t number = 2; found < 64; ++number) {
        bool is_prime = true;
        for (uint32_t divisor = 2; divisor * divisor <= number; ++divisor) is_prime &= number % divisor != 0;
        if (!is_prime) continue;
        if (found < 8) square_roots[found] = fraction(std::sqrt(static_cast<long double>(number)));
        cube_roots[found++] = fraction(std::cbrt(static_cast<long double>(number)));
      }
    }
  };
  static const Constants& constants() {
    static const Constants made;
    return made;
  }

  void add_block(const uint8_t* block) {
    std::array<uint32_t, 64> w{};
    for (size_t t = 0; t < 16; ++t) {
      for (size_t byte = 0; byte < 4; ++byte) w[t] = w[t] << 8 | block[4 * t + byte];
    }
    for (size_t t = 16; t < 64; ++t) {
      const uint32_t a = w[t - 15], b = w[t - 2];
      w[t] = w[t - 16] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) + w[t - 7] +
             (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
    }
    auto [a, b, c, d, e, f, g, h] = state_;
    for (size_t t = 0; t < 64; ++t) {
      const uint32_t first = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) +
                             ((e & f) ^ (~e & g)) + constants().cube_roots[t] + w[t];
      const uint32_t second =
          (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
    }
    const std::array<uint32_t, 8> sums = {a, b, c, d, e, f, g, h};
    for (size_t at = 0; at < 8; ++at) state_[at] += sums[at];
  }

  std::array<uint32_t, 8> state_ = constants().square_roots;
};

}  // namespace nibblecast::testing
