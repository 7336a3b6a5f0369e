// One file of a server that does what servers do.
#include "remote/range_source.h"

#include <gmock/gmock.h>

#include <atomic>
#include <thread>

#include "remote/remote_testing.h"

namespace nibblecast::testing {
namespace {

std::string some_content(size_t size) {
  std::string text(size, '\0');
  uint32_t state = 1;
  for (char& letter : text) letter = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  return text;
}

ServerReply part_of(const std::string& content, const ServerRequest& request) {
  const auto [first, last] = *request.range;
  const std::string body = content.substr(first, last - first + 1);
  return {.status = 206,
          .fields = {{"Content-Range", "bytes " + std::to_string(first) + "-" +
                                           std::to_string(first + body.size() - 1) + "/" +
                                           std::to_string(content.size())}},
          .body = body};
}

class RangeSourceTest : public ::testing::Test {
 protected:
  using Answer = std::function<ServerReply(const ServerRequest&)>;
  static constexpr size_t kBytes = 300'000;

  // Reads [begin, begin + size) of a server that answers so.
  std::string read(const Answer& answer, uint64_t begin = 0, size_t size = kBytes) {
    HttpServer server([&](const ServerRequest& request) {
      ++requests_;
      return answer(request);
    });
    RangeSource source(line_, entry_, server.url() + "/file", "hf://o/n@c/file");
    std::string text(size, '\0');
    source.read(begin, std::as_writable_bytes(std::span(text)));
    connections_ = server.connections();
    return text;
  }

  void expect_refused(ErrorKind kind, const std::string& words, const Answer& answer) {
    expect_error(
        kind, [&] { read(answer, 10, 1000); }, "hf://o/n@c/file", words);
  }

  static RemoteEntry file_of(size_t size) {
    RemoteEntry entry;
    entry.name = "file";
    entry.size_bytes = size;
    return entry;
  }

  const std::string content_ = some_content(kBytes);
  Line line_{.transport = test_transport(), .retry = quick_tries()};
  RemoteEntry entry_ = file_of(kBytes);
  std::atomic<size_t> requests_ = 0;
  size_t connections_ = 0;
};

TEST_F(RangeSourceTest, ARangeIsOneRequest) {
  EXPECT_EQ(read([&](const ServerRequest& request) { return part_of(content_, request); }, 1234, 5678),
            content_.substr(1234, 5678));
  EXPECT_EQ(requests_, 1u);
}

TEST_F(RangeSourceTest, ACutConnectionIsGoneOnWithWhereItStopped) {
  std::vector<uint64_t> begins;
  EXPECT_EQ(read([&](const ServerRequest& request) {
              begins.push_back(request.range->first);
              ServerReply reply = part_of(content_, request);
              reply.cut_after = 70'000;
              return reply;
            }),
            content_);
  EXPECT_THAT(begins, ::testing::ElementsAre(0, 70'000, 140'000, 210'000, 280'000));
}

TEST_F(RangeSourceTest, WhatMayPassIsTriedAgain) {
  for (const int status : {429, 500, 502, 503, 504, 408}) {
    requests_ = 0;
    EXPECT_EQ(read([&](const ServerRequest& request) {
                if (requests_ > 3) return part_of(content_, request);
                return ServerReply{.status = status, .fields = {{"Retry-After", "0"}}, .body = "busy"};
              }),
              content_);
    EXPECT_EQ(requests_, 4u) << status;
  }
  requests_ = 0;
  EXPECT_EQ(read([&](const ServerRequest& request) {
              ServerReply reply = part_of(content_, request);
              reply.drop = requests_ < 4;
              return reply;
            }),
            content_);
}

TEST_F(RangeSourceTest, WhatDoesNotPassIsGivenUp) {
  expect_refused(ErrorKind::kIo, "could not be read, though it was tried 6 times: HTTP 503",
                 [](const ServerRequest&) { return ServerReply{.status = 503}; });
  EXPECT_EQ(requests_, 6u);
  expect_refused(ErrorKind::kIo, "the server asks to wait 86400 seconds", [](const ServerRequest&) {
    return ServerReply{.status = 429, .fields = {{"Retry-After", "86400"}}};
  });
  expect_refused(ErrorKind::kIo, "the server asks to wait 3599 seconds", [](const ServerRequest&) {
    return ServerReply{.status = 429, .fields = {{"RateLimit", "\"resolvers\";r=0;t=3599"}}};
  });
  expect_refused(ErrorKind::kIo, "tried 6 times",
                 [](const ServerRequest&) { return ServerReply{.drop = true}; });
  expect_refused(ErrorKind::kIo, "HTTP 418", [](const ServerRequest&) { return ServerReply{.status = 418}; });
}

TEST_F(RangeSourceTest, WrongRangesAreNeverTaken) {
  expect_refused(ErrorKind::kIo,
                 "another range than was asked for (bytes 10-1009, Content-Range: bytes 11-1010",
                 [&](const ServerRequest& request) {
                   ServerRequest other = request;
                   other.range = {request.range->first + 1, request.range->second + 1};
                   return part_of(content_, other);
                 });
  expect_refused(ErrorKind::kIo, "Content-Range: none", [&](const ServerRequest& request) {
    ServerReply reply = part_of(content_, request);
    reply.fields.clear();
    return reply;
  });
  expect_refused(ErrorKind::kIo, "sent more bytes than were asked for", [&](const ServerRequest& request) {
    ServerReply reply = part_of(content_, request);
    reply.body += "x";
    return reply;
  });
  expect_refused(ErrorKind::kIo, "packed", [&](const ServerRequest& request) {
    ServerReply reply = part_of(content_, request);
    reply.fields.emplace_back("Content-Encoding", "gzip");
    return reply;
  });
  // Too short, and said to be whole: the rest is asked for.
  EXPECT_EQ(read([&](const ServerRequest& request) {
              ServerRequest less = request;
              less.range->second = std::min(request.range->second, request.range->first + 99'999);
              return part_of(content_, less);
            }),
            content_);
}

TEST_F(RangeSourceTest, AnotherFileIsRefused) {
  expect_refused(ErrorKind::kBadInput, "its size is another",
                 [&](const ServerRequest& request) { return part_of(content_ + "x", request); });
  expect_refused(ErrorKind::kBadInput, "its size is another", [&](const ServerRequest&) {
    return ServerReply{.status = 416, .fields = {{"Content-Range", "bytes */5"}}};
  });
  entry_.version = "\"first\"";
  expect_refused(ErrorKind::kBadInput, "its ETag is another", [&](const ServerRequest& request) {
    ServerReply reply = part_of(content_, request);
    reply.fields.emplace_back("ETag", "\"second\"");
    return reply;
  });
  entry_.version.clear();
  expect_refused(ErrorKind::kBadInput, "its ETag is another", [&](const ServerRequest& request) {
    ServerReply reply = part_of(content_, request);
    reply.fields.emplace_back("ETag", "\"" + std::to_string(requests_) + "\"");
    reply.cut_after = 500;
    return reply;
  });
}

TEST_F(RangeSourceTest, AServerWithoutRangesIsRefusedButForWholeFiles) {
  const Answer whole = [&](const ServerRequest&) { return ServerReply{.body = content_}; };
  expect_refused(ErrorKind::kUnsupported, "does not answer range requests", whole);
  EXPECT_EQ(read(whole), content_);
}

TEST_F(RangeSourceTest, RedirectsEnd) {
  expect_refused(ErrorKind::kIo, "HTTP 302", [](const ServerRequest&) {
    return ServerReply{.status = 302, .fields = {{"Location", "/again"}}};
  });
}

TEST_F(RangeSourceTest, ConnectionsAreKept) {
  HttpServer server([&](const ServerRequest& request) { return part_of(content_, request); });
  RangeSource source(line_, entry_, server.url() + "/file", "file");
  std::string text(1000, '\0');
  for (uint64_t begin = 0; begin < 50'000; begin += 1000) {
    source.read(begin, std::as_writable_bytes(std::span(text)));
    EXPECT_EQ(text, content_.substr(begin, 1000));
  }
  EXPECT_EQ(server.connections(), 1u);
}

TEST_F(RangeSourceTest, ManyThreadsReadAtOnce) {
  HttpServer server([&](const ServerRequest& request) { return part_of(content_, request); });
  RangeSource source(line_, entry_, server.url() + "/file", "file");
  std::string text(kBytes, '\0');
  std::vector<std::thread> threads;
  for (size_t thread = 0; thread < 10; ++thread) {
    threads.emplace_back([&, thread] {
      for (size_t at = thread * 30'000; at < (thread + 1) * 30'000; at += 3000)
        source.read(at, std::as_writable_bytes(std::span(text).subspan(at, 3000)));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(text == content_);
}

}  // namespace
}  // namespace nibblecast::testing
