// remote/http.h - GET requests over HTTP, and what URLs need.
//
// The transport is a seam: libcurl's in curl_transport.cpp, none in a build without it (no_http.cpp), another
// one in tests.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibblecast {

struct HttpHead {
  int status = 0;                             // 0: nothing came
  std::map<std::string, std::string> fields;  // names in lower case
  // Empty where there is none.
  std::string field(const std::string& name) const;
};

struct HttpRequest {
  std::string url;
  std::vector<std::string> headers = {};  // "Name: value"
  // Takes a body of status 200 or 206 as it arrives; false ends the transfer. Empty: HttpReply::text holds
  // it.
  std::function<bool(const HttpHead&, std::span<const std::byte>)> body = {};
};

struct HttpReply {
  HttpHead head;
  std::string text = {};     // a body that nobody took; cut after 16 MiB
  std::string failure = {};  // why it is not whole, without address and headers; empty where it is
  bool may_pass = false;     // the failure: a later try may succeed
};

class HttpTransport {
 public:
  virtual ~HttpTransport() = default;
  // Redirects are not followed. Blocks until the body has ended, and gives up where a connection stands still
  // for half a minute. Connections are kept for later requests. Thread-safe; does not throw for what the
  // network does.
  virtual HttpReply get(const HttpRequest& request) = 0;
};

// Certificates are checked against SSL_CERT_FILE, SSL_CERT_DIR, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE where one
// is set, else the system's. Proxies as HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY say, in lower or
// upper case. Error kUnsupported in a build without HTTP.
std::unique_ptr<HttpTransport> make_http_transport();

// "https://host:port" of a URL, in lower case.
std::string origin_of(std::string_view url);
// Where a Location of `url` leads (RFC 3986, 5.2, without dot segments).
std::string joined_url(std::string_view url, std::string_view location);
// With %XX for all but unreserved characters and those in `kept`.
std::string url_quoted(std::string_view text, std::string_view kept = "");

// "bytes 0-99/1000"
struct ContentRange {
  uint64_t first = 0, last = 0, total = 0;
};
std::optional<ContentRange> parse_content_range(std::string_view text);
// Without W/ and quotation marks.
std::string etag_value(std::string_view text);
// Seconds of Retry-After: a number, or a date after `now` (seconds since 1970); nullopt for other texts.
std::optional<double> parse_retry_after(const std::string& text, int64_t now);
// The URL of a Link header's rel="next"; empty where there is none.
std::string next_link(std::string_view text);

}  // namespace nibblecast
