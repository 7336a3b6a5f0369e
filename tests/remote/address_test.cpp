#include "remote/address.h"

#include <gtest/gtest.h>

#include "testing.h"

namespace nibblecast::testing {
namespace {

constexpr const char* kEndpoint = "https://mirror.example/hub";

std::string parsed(std::string_view text) {
  const SourceAddress address = parse_address(text, kEndpoint);
  return address.hub ? address.hub->id() + " " + address.hub->revision : address.url;
}

TEST(Address, ModelsOfTheHub) {
  EXPECT_EQ(parsed("hf://deepseek-ai/DeepSeek-V4-Pro"), "deepseek-ai/DeepSeek-V4-Pro main");
  EXPECT_EQ(parsed("hf:/a/b/"), "a/b main");
  EXPECT_EQ(parsed("hf://a/b@refs/pr/1"), "a/b refs/pr/1");
  EXPECT_EQ(parsed("https://huggingface.co/a/b/tree/v1.0/"), "a/b v1.0");
  EXPECT_EQ(parsed("https://hf.co/a/b"), "a/b main");
  EXPECT_EQ(parsed("https://mirror.example/hub/a/b"), "a/b main");
}

TEST(Address, FoldersOfServers) {
  EXPECT_EQ(parsed("https://example.com:81/x/y/"), "https://example.com:81/x/y");
  EXPECT_EQ(parsed("http:/example.com"), "http://example.com");
  EXPECT_EQ(parsed("https://huggingface.community/a/b"), "https://huggingface.community/a/b");
}

TEST(Address, WhatIsNoneIsRefused) {
  for (const char* text :
       {"hf://a", "hf://", "hf://a/b/c", "hf://datasets/a", "hf://a/b@", "hf://../b", "hf://a/b c",
        "https://huggingface.co/a", "https://huggingface.co/a/b/blob/main/config.json", "https://",
        "https://example.com/a?token=x"}) {
    expect_error(
        ErrorKind::kUsage, [&] { parse_address(text, kEndpoint); }, "");
  }
  try {
    parse_address("https://me:secret@example.com/", kEndpoint);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find("secret"), std::string::npos);
  }
}

TEST(Address, NamesInPaths) {
  EXPECT_TRUE(is_address("hf:/a/b"));
  EXPECT_TRUE(is_address("http://h"));
  EXPECT_FALSE(is_address("./hf:/a/b"));
  EXPECT_FALSE(is_address("models/https:"));
  EXPECT_EQ(hub_id_of_address("hf://a/b@0123/config.json"), "a/b");
  EXPECT_EQ(hub_id_of_address("https://h/a/b"), "");
  EXPECT_EQ(name_of_address("hf://a/b@0123"), "b");
  EXPECT_EQ(name_of_address("https://h/models/x"), "x");
  EXPECT_EQ(name_of_address("/models/x"), "");
}

}  // namespace
}  // namespace nibblecast::testing
