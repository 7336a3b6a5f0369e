#include "base/digest.h"

#include <gtest/gtest.h>

namespace nibblecast {
namespace {

std::string digest(Digest::Kind kind, std::string_view text, size_t piece) {
  Digest made(kind);
  for (size_t at = 0; at < text.size(); at += piece) made.add(text.substr(at, piece));
  return made.hex();
}

// FIPS 180-4's own examples.
TEST(Digest, IsTheStandards) {
  const std::string million(1'000'000, 'a');
  for (const size_t piece : {1'000'000u, 4'095u}) {
    EXPECT_EQ(digest(Digest::Kind::kSha256, "abc", piece),
              "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(digest(Digest::Kind::kSha256, million, piece),
              "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    EXPECT_EQ(digest(Digest::Kind::kSha1, "abc", piece), "a9993e364706816aba3e25717850c26c9cd0d89d");
    EXPECT_EQ(digest(Digest::Kind::kSha1, million, piece), "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
  }
  EXPECT_EQ(digest(Digest::Kind::kSha256, "", 1),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(Digest, GitsNameOfAnEmptyFile) {
  EXPECT_EQ(digest(Digest::Kind::kSha1, std::string_view("blob 0\0", 7), 3),
            "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
}

}  // namespace
}  // namespace nibblecast
