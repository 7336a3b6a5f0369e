#include "remote/http.h"

#include <gtest/gtest.h>

namespace nibblecast::testing {
namespace {

TEST(Http, WhereALocationLeads) {
  EXPECT_EQ(joined_url("https://h:1/a/b?q", "https://other/x"), "https://other/x");
  EXPECT_EQ(joined_url("https://h:1/a/b?q", "/x?u=http://y"), "https://h:1/x?u=http://y");
  EXPECT_EQ(joined_url("https://h:1/a/b?q=/z", "x"), "https://h:1/a/x");
  EXPECT_EQ(joined_url("https://h", "x"), "https://h/x");
  EXPECT_EQ(joined_url("https://h/a", "//other/x"), "https://other/x");
  EXPECT_EQ(origin_of("HTTPS://Host:443/A"), "https://host:443");
  EXPECT_EQ(origin_of("https://h?x"), "https://h");
  EXPECT_EQ(origin_of("nothing"), "");
}

TEST(Http, Fields) {
  const auto range = parse_content_range("bytes 5-9/10");
  ASSERT_TRUE(range);
  EXPECT_EQ(range->first, 5u);
  EXPECT_EQ(range->last, 9u);
  EXPECT_EQ(range->total, 10u);
  for (const char* text : {"", "bytes 5-9/*", "bytes 9-5/10", "bytes 0-10/10", "bytes */10", "bytes 0-1/2x"})
    EXPECT_FALSE(parse_content_range(text)) << text;
  EXPECT_EQ(etag_value("W/\"abc\""), "abc");
  EXPECT_EQ(etag_value("abc"), "abc");
  EXPECT_EQ(parse_retry_after("7", 0), 7);
  EXPECT_EQ(parse_retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 50), 10);
  EXPECT_EQ(parse_retry_after("Thu, 01 Jan 1970 00:00:10 GMT", 50), 0);
  EXPECT_FALSE(parse_retry_after("soon", 0));
  EXPECT_EQ(next_link("<https://h/1>; rel=\"prev\", <https://h/3>; rel=\"next\""), "https://h/3");
  EXPECT_EQ(next_link("<https://h/1>; rel=\"prev\""), "");
  EXPECT_EQ(next_link("<"), "");
  EXPECT_EQ(url_quoted("refs/pr/1 \xc3\xa4"), "refs%2Fpr%2F1%20%C3%A4");
  EXPECT_EQ(url_quoted("a/b.c", "/"), "a/b.c");
}

}  // namespace
}  // namespace nibblecast::testing
