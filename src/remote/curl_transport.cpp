#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <mutex>

#include "base/error.h"
#include "remote/certificates.h"
#include "remote/environment.h"
#include "remote/http.h"

namespace nibblecast {
namespace {

constexpr size_t kMostTextBytes = 16 << 20;
constexpr long kConnectSeconds = 20;
// A connection that brings less for so long stands still.
constexpr long kLeastBytesPerSecond = 1000, kStandstillSeconds = 30;
// Copied from at once, so that it should stay in a processor's cache.
constexpr long kBufferBytes = 128 << 10;

bool may_pass(CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_PARTIAL_FILE:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_BAD_CONTENT_ENCODING:
      return true;
    default:
      return false;
  }
}

struct HandleCleanup {
  void operator()(CURL* handle) const { curl_easy_cleanup(handle); }
};
using Handle = std::unique_ptr<CURL, HandleCleanup>;

struct ListCleanup {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
using HeaderList = std::unique_ptr<curl_slist, ListCleanup>;

HeaderList header_list(const HttpRequest& request) {
  HeaderList list;
  for (const std::string& header : request.headers) {
    curl_slist* const longer = curl_slist_append(list.get(), header.c_str());
    if (longer == nullptr) throw std::bad_alloc();
    (void)list.release();
    list.reset(longer);
  }
  return list;
}

// One request under way.
struct Exchange {
  const HttpRequest& request;
  HttpReply reply = {};
  bool ended = false;  // by us
  std::exception_ptr error = nullptr;

  void header(std::string_view line) {
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back()))) line.remove_suffix(1);
    if (line.starts_with("HTTP/")) {  // of 100 Continue, another head follows
      const size_t space = line.find(' ');
      reply.head = {.status = space == line.npos ? 0 : std::atoi(line.data() + space), .fields = {}};
      return;
    }
    const size_t colon = line.find(':');
    if (colon == line.npos) return;
    std::string name(line.substr(0, colon));
    std::ranges::transform(name, name.begin(),
                           [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
    line.remove_prefix(std::min(line.find_first_not_of(" \t", colon + 1), line.size()));
    reply.head.fields[name] = line;
  }

  bool take(std::span<const std::byte> bytes) {
    const bool good = reply.head.status == 200 || reply.head.status == 206;
    if (request.body && good) return request.body(reply.head, bytes);
    const size_t room = kMostTextBytes - std::min(reply.text.size(), kMostTextBytes);
    reply.text.append(reinterpret_cast<const char*>(bytes.data()), std::min(room, bytes.size()));
    return reply.text.size() < kMostTextBytes;
  }
};

size_t take_header(const char* text, size_t size, size_t count, void* exchange) {
  static_cast<Exchange*>(exchange)->header({text, size * count});
  return size * count;
}

size_t take_body(const char* bytes, size_t size, size_t count, void* user) {
  auto& exchange = *static_cast<Exchange*>(user);
  try {
    if (exchange.take(std::as_bytes(std::span(bytes, size * count)))) return size * count;
  } catch (...) {
    exchange.error = std::current_exception();
  }
  exchange.ended = true;
  return 0;
}

class CurlTransport : public HttpTransport {
 public:
  CurlTransport() : certificates_(certificate_bundle()) {
    static const CURLcode ready = curl_global_init(CURL_GLOBAL_DEFAULT);
    if (ready != CURLE_OK) throw Error(ErrorKind::kInternal, {}, "libcurl does not start");
  }

  HttpReply get(const HttpRequest& request) override {
    Handle handle = take_handle();
    Exchange exchange{.request = request};
    const HeaderList headers = header_list(request);
    std::array<char, CURL_ERROR_SIZE> text = {};
    prepare(handle.get(), request.url);
    curl_easy_setopt(handle.get(), CURLOPT_HTTPHEADER, headers.get());
    curl_easy_setopt(handle.get(), CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(handle.get(), CURLOPT_HEADERDATA, &exchange);
    curl_easy_setopt(handle.get(), CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(handle.get(), CURLOPT_WRITEDATA, &exchange);
    curl_easy_setopt(handle.get(), CURLOPT_ERRORBUFFER, text.data());
    const CURLcode code = curl_easy_perform(handle.get());
    curl_easy_setopt(handle.get(), CURLOPT_ERRORBUFFER, nullptr);
    give_back(std::move(handle));
    if (exchange.error) std::rethrow_exception(exchange.error);
    if (code != CURLE_OK && !exchange.ended) {
      exchange.reply.failure = text[0] != 0 ? text.data() : curl_easy_strerror(code);
      if (code == CURLE_PEER_FAILED_VERIFICATION)
        exchange.reply.failure += " (SSL_CERT_FILE names the certificates to trust)";
      exchange.reply.may_pass = may_pass(code);
    }
    return std::move(exchange.reply);
  }

 private:
  // What every request is like. A handle that is reset keeps its connections.
  void prepare(CURL* handle, const std::string& url) const {
    curl_easy_reset(handle);
    curl_easy_setopt(handle, CURLOPT_URL, url.c_str());
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(handle, CURLOPT_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS);
#endif
    curl_easy_setopt(handle, CURLOPT_USERAGENT, "nibblecast/" NIBBLECAST_VERSION);
    // One connection a request: with HTTP/2 all of a handle would share one, which is no faster.
    curl_easy_setopt(handle, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(handle, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    curl_easy_setopt(handle, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(handle, CURLOPT_BUFFERSIZE, kBufferBytes);
    curl_easy_setopt(handle, CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
    curl_easy_setopt(handle, CURLOPT_LOW_SPEED_LIMIT, kLeastBytesPerSecond);
    curl_easy_setopt(handle, CURLOPT_LOW_SPEED_TIME, kStandstillSeconds);
    if (!certificates_.empty()) curl_easy_setopt(handle, CURLOPT_CAINFO, certificates_.c_str());
    if (const char* folder = environment({"SSL_CERT_DIR"})) curl_easy_setopt(handle, CURLOPT_CAPATH, folder);
    // libcurl reads this one in lower case alone; the Hub's client in both.
    const char* proxy = environment({"http_proxy", "HTTP_PROXY"});
    if (proxy != nullptr && url.starts_with("http://")) curl_easy_setopt(handle, CURLOPT_PROXY, proxy);
  }

  Handle take_handle() {
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        Handle handle = std::move(idle_.back());
        idle_.pop_back();
        return handle;
      }
    }
    Handle handle(curl_easy_init());
    if (!handle) throw Error(ErrorKind::kInternal, {}, "libcurl makes no handle");
    return handle;
  }

  void give_back(Handle handle) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(handle));
  }

  const std::string certificates_;
  std::mutex mutex_;
  std::vector<Handle> idle_;  // the last used one is taken first: its connection is the warmest
};

}  // namespace

std::unique_ptr<HttpTransport> make_http_transport() { return std::make_unique<CurlTransport>(); }

}  // namespace nibblecast
