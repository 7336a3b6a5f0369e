// remote/line.h - how requests to one server are made: with whose token, and how often they are tried again.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "remote/http.h"

namespace nibblecast {

inline constexpr int kMostRedirects = 5;

struct RetryPolicy {
  size_t most_tries = 8;          // that bring nothing, one after the other; 2 minutes with the pauses below
  double first_pause = 0.5;       // seconds; each further one twice as long
  double longest_pause = 30;      // where the server names none
  double most_asked_pause = 600;  // a server that asks for a longer one is not waited for
};

struct Line {
  std::shared_ptr<HttpTransport> transport;
  // Goes to this origin (http.h) and to no other: not after a redirect, not into messages.
  std::string token = {}, token_origin = {};
  RetryPolicy retry = {};
  // What a server's refusal (401, 403, 404) of a file or listing means; throws. `file`: for the message.
  std::function<void(const HttpReply&, const std::string& file)> explain = {};

  // The headers of a request to `url`: none of its content is to be packed, and the token where it may go.
  std::vector<std::string> headers(const std::string& url) const;
};

// The tries of one thing that have brought nothing.
class Tries {
 public:
  Tries(const RetryPolicy& policy, std::string file) : policy_(policy), file_(std::move(file)) {}
  void succeeded() { failed_ = 0; }
  // Waits until the next one may be made. Error kIo after the last: the file, `why`, how often it was tried.
  void failed(const std::string& why, std::optional<double> asked_pause = std::nullopt);

 private:
  const RetryPolicy policy_;
  const std::string file_;
  size_t failed_ = 0;
};

// Whether it is worth another try: no answer, or 408, 429, 5xx.
bool may_pass(const HttpReply& reply);
// "HTTP 503", "HTTP 200, cut: ...", or the failure.
std::string outcome_text(const HttpReply& reply);
// Seconds, of Retry-After, or of the Hub's RateLimit: "api";r=0;t=55.
std::optional<double> asked_pause(const HttpReply& reply);

// Where a redirect of `url` leads. Error kIo where it leaves HTTPS.
std::string redirected(const std::string& url, const HttpReply& reply, const std::string& file);

// What a small document (of at most 16 MiB) holds; tried again as the line says, redirects followed.
// Errors: kIo; what line.explain() throws. `file`: for messages.
HttpReply get_document(const Line& line, const std::string& url, const std::string& file);

// What a server says of a file whose size is not known.
struct ProbedFile {
  uint64_t size_bytes = 0;
  std::string etag;   // as it stands in the header; empty: none
  std::string begin;  // the first bytes, at most as many as were asked for
};
// nullopt: 404 or 410. Errors as of get_document(); kUnsupported where the server does not answer range
// requests and the file is larger than `head_bytes`.
std::optional<ProbedFile> probe_file(const Line& line, const std::string& url, const std::string& file,
                                     uint64_t head_bytes);

}  // namespace nibblecast
