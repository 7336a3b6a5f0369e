// tests/remote/http_server.h - an HTTP/1.1 server on this machine, whose answers a test decides.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace nibblecast::testing {

struct ServerRequest {
  std::string method;                                  // "GET"; of "HEAD" the answer's body is not sent
  std::string target;                                  // path and query, as they came
  std::map<std::string, std::string> fields;           // names in lower case
  std::optional<std::pair<uint64_t, uint64_t>> range;  // first and last byte of Range
};

struct ServerReply {
  int status = 200;
  std::vector<std::pair<std::string, std::string>> fields = {};
  std::string body = {};
  // So many bytes of the body are sent, though Content-Length speaks of all; then the connection is closed.
  size_t cut_after = std::string::npos;
  bool drop = false;  // no answer: the connection is closed
};

// What lies between a server and whoever asks it.
struct LineShape {
  double delay_seconds = 0;     // before each answer
  double bytes_per_second = 0;  // of all bodies together; 0: as they come
};

class HttpServer {
 public:
  LineShape line = {};  // before the first request
  // `answer` is called from many threads at once.
  explicit HttpServer(std::function<ServerReply(const ServerRequest&)> answer);
  ~HttpServer();
  // "http://127.0.0.1:PORT"; with another name of this host: "http://localhost:PORT".
  std::string url(const std::string& host = "127.0.0.1") const;
  size_t connections() const;  // that were ever made

 private:
  void accept_all();
  void serve(int socket);
  bool send_reply(int socket, const ServerReply& reply, bool with_body);

  const std::function<ServerReply(const ServerRequest&)> answer_;
  int listening_ = -1;
  uint16_t port_ = 0;
  bool send_body(int socket, std::string_view body);
  mutable std::mutex mutex_;
  std::chrono::steady_clock::time_point line_free_;  // when the line has sent what it was given
  bool stop_ = false;
  std::vector<int> sockets_;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

}  // namespace nibblecast::testing
