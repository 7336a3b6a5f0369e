#include "remote/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>

namespace nibblecast::testing {
namespace {

bool send_all(int socket, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

// Head of the next request, without its last empty line; nullopt: the connection is over.
std::optional<std::string> read_head(int socket, std::string& buffer) {
  char block[4096];
  size_t end;
  while ((end = buffer.find("\r\n\r\n")) == std::string::npos) {
    const ssize_t got = ::recv(socket, block, sizeof block, 0);
    if (got <= 0) return std::nullopt;
    buffer.append(block, static_cast<size_t>(got));
  }
  std::string head = buffer.substr(0, end + 2);
  buffer.erase(0, end + 4);
  return head;
}

ServerRequest parse_head(const std::string& head) {
  ServerRequest request;
  const size_t begin = head.find(' ') + 1;
  request.method = head.substr(0, begin - 1);
  request.target = head.substr(begin, head.find(' ', begin) - begin);
  for (size_t at = head.find("\r\n") + 2; at < head.size();) {
    const size_t end = head.find("\r\n", at), colon = head.find(':', at);
    std::string name = head.substr(at, colon - at);
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
    request.fields[name] = head.substr(colon + 2, end - colon - 2);
    at = end + 2;
  }
  unsigned long long first = 0, last = 0;
  if (std::sscanf(request.fields["range"].c_str(), "bytes=%llu-%llu", &first, &last) == 2)
    request.range = {first, last};
  return request;
}

}  // namespace

HttpServer::HttpServer(std::function<ServerReply(const ServerRequest&)> answer) : answer_(std::move(answer)) {
  listening_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (::bind(listening_, reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(listening_, 64) != 0 ||
      ::getsockname(listening_, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    std::abort();
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { accept_all(); });
}

HttpServer::~HttpServer() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    ::shutdown(listening_, SHUT_RDWR);
    for (const int socket : sockets_) ::shutdown(socket, SHUT_RDWR);
  }
  acceptor_.join();
  for (std::thread& thread : threads_) thread.join();
  for (const int socket : sockets_) ::close(socket);
  ::close(listening_);
}

std::string HttpServer::url(const std::string& host) const {
  return "http://" + host + ":" + std::to_string(port_);
}

size_t HttpServer::connections() const {
  const std::lock_guard lock(mutex_);
  return sockets_.size();
}

void HttpServer::accept_all() {
  for (int socket; (socket = ::accept4(listening_, nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) {
    const int one = 1;
    ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    const std::lock_guard lock(mutex_);
    sockets_.push_back(socket);
    if (stop_)
      ::shutdown(socket, SHUT_RDWR);
    else
      threads_.emplace_back([this, socket] { serve(socket); });
  }
}

void HttpServer::serve(int socket) {
  std::string buffer;
  while (const auto head = read_head(socket, buffer)) {
    const ServerRequest request = parse_head(*head);
    if (!send_reply(socket, answer_(request), request.method != "HEAD")) break;
  }
  ::shutdown(socket, SHUT_RDWR);  // closed at the end, when no other can have its number
}

bool HttpServer::send_reply(int socket, const ServerReply& reply, bool with_body) {
  if (reply.drop) return false;
  std::this_thread::sleep_for(std::chrono::duration<double>(line.delay_seconds));
  std::string head = "HTTP/1.1 " + std::to_string(reply.status) + " -\r\n";
  bool has_length = false;
  for (const auto& [name, value] : reply.fields) {
    head += name + ": " + value + "\r\n";
    has_length |= name == "Content-Length";
  }
  if (!has_length) head += "Content-Length: " + std::to_string(reply.body.size()) + "\r\n";
  if (!with_body) return send_all(socket, head + "\r\n");
  const std::string_view body = std::string_view(reply.body).substr(0, reply.cut_after);
  return send_all(socket, head + "\r\n") && send_body(socket, body) && body.size() == reply.body.size();
}

bool HttpServer::send_body(int socket, std::string_view body) {
  constexpr size_t kPieceBytes = 64 << 10;
  if (line.bytes_per_second == 0) return send_all(socket, body);
  while (!body.empty()) {
    const std::string_view piece = body.substr(0, kPieceBytes);
    const std::chrono::duration<double> takes(static_cast<double>(piece.size()) / line.bytes_per_second);
    std::chrono::steady_clock::time_point turn;
    {
      const std::lock_guard lock(mutex_);
      line_free_ = std::max(line_free_, std::chrono::steady_clock::now()) +
                   std::chrono::duration_cast<std::chrono::steady_clock::duration>(takes);
      turn = line_free_;
    }
    std::this_thread::sleep_until(turn);
    if (!send_all(socket, piece)) return false;
    body.remove_prefix(piece.size());
  }
  return true;
}

}  // namespace nibblecast::testing
