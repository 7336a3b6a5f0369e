#include "remote/line.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <thread>

namespace nibblecast {
namespace {

constexpr std::string_view kGoOnHint = "once the server answers, the same command goes on";

// Hosts that were turned away together should not come back together.
double spread(double seconds, const void* who) {
  const auto seed = reinterpret_cast<uintptr_t>(who) / 64 ^
                    static_cast<uintptr_t>(std::chrono::steady_clock::now().time_since_epoch().count());
  return seconds * (0.75 + 0.5 * static_cast<double>(seed % 64) / 64);
}

}  // namespace

std::vector<std::string> Line::headers(const std::string& url) const {
  std::vector<std::string> headers = {"Accept-Encoding: identity"};
  if (!token.empty() && origin_of(url) == token_origin) headers.push_back("Authorization: Bearer " + token);
  return headers;
}

void Tries::failed(const std::string& why, std::optional<double> asked_pause) {
  ++failed_;
  if (asked_pause && *asked_pause > policy_.most_asked_pause) {
    throw Error(ErrorKind::kIo, {.file = file_},
                fmt::format("the server asks to wait {:.0f} seconds ({})", *asked_pause, why),
                {.hint = "run the same command again then: it goes on"});
  }
  if (failed_ >= policy_.most_tries) {
    throw Error(ErrorKind::kIo, {.file = file_},
                fmt::format("could not be read, though it was tried {} times: {}", failed_, why),
                {.hint = std::string(kGoOnHint)});
  }
  const double doubled = policy_.first_pause * std::exp2(static_cast<double>(failed_ - 1));
  const double pause = asked_pause ? *asked_pause : spread(std::min(doubled, policy_.longest_pause), this);
  std::this_thread::sleep_for(std::chrono::duration<double>(pause));
}

bool may_pass(const HttpReply& reply) {
  if (!reply.failure.empty()) return reply.may_pass;
  const int status = reply.head.status;
  return status == 408 || status == 429 || (status >= 500 && status != 501);
}

std::string outcome_text(const HttpReply& reply) {
  if (reply.head.status == 0) return reply.failure.empty() ? "no answer" : reply.failure;
  const std::string status = fmt::format("HTTP {}", reply.head.status);
  return reply.failure.empty() ? status : status + ", cut: " + reply.failure;
}

std::optional<double> asked_pause(const HttpReply& reply) {
  constexpr std::string_view kSeconds = ";t=";
  const std::string field = reply.head.field("retry-after"), limit = reply.head.field("ratelimit");
  if (!field.empty()) return parse_retry_after(field, std::time(nullptr));
  const size_t seconds = limit.find(kSeconds);
  if (reply.head.status != 429 || seconds == limit.npos) return std::nullopt;
  return std::atof(limit.c_str() + seconds + kSeconds.size());
}

std::string redirected(const std::string& url, const HttpReply& reply, const std::string& file) {
  std::string place = joined_url(url, reply.head.field("location"));
  if (url.starts_with("https:") && !place.starts_with("https:")) {
    throw Error(ErrorKind::kIo, {.file = file}, "the server leads to an address without HTTPS",
                {.found = origin_of(place)});
  }
  return place;
}

namespace {

// What the server answers in the end: tried again as the line says, redirects followed.
template <class Get>
HttpReply get_answer(const Line& line, std::string place, const std::string& file, const Get& get) {
  Tries tries(line.retry, file);
  for (int redirects = 0;;) {
    HttpReply reply = get(place);
    const int status = reply.head.status;
    if (status >= 300 && status < 400 && !reply.head.field("location").empty() &&
        redirects++ < kMostRedirects) {
      place = redirected(place, reply, file);
    } else if (may_pass(reply)) {
      tries.failed(outcome_text(reply), asked_pause(reply));
    } else {
      return reply;
    }
  }
}

[[noreturn]] void refuse(const Line& line, const HttpReply& reply, const std::string& file) {
  if (line.explain && reply.head.status != 0) line.explain(reply, file);
  throw Error(ErrorKind::kIo, {.file = file}, "could not be read: " + outcome_text(reply));
}

}  // namespace

HttpReply get_document(const Line& line, const std::string& url, const std::string& file) {
  HttpReply reply = get_answer(line, url, file, [&](const std::string& place) {
    return line.transport->get({.url = place, .headers = line.headers(place)});
  });
  if (!reply.failure.empty() || reply.head.status != 200) refuse(line, reply, file);
  return reply;
}

std::optional<ProbedFile> probe_file(const Line& line, const std::string& url, const std::string& file,
                                     uint64_t head_bytes) {
  ProbedFile found;
  const HttpReply reply = get_answer(line, url, file, [&](const std::string& place) {
    found.begin.clear();
    HttpRequest request{.url = place, .headers = line.headers(place)};
    request.headers.push_back(fmt::format("Range: bytes=0-{}", head_bytes - 1));
    request.body = [&](const HttpHead&, std::span<const std::byte> bytes) {
      found.begin.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      return found.begin.size() <= head_bytes;
    };
    return line.transport->get(request);
  });
  const int status = reply.head.status;
  if (reply.failure.empty() && (status == 404 || status == 410)) return std::nullopt;
  if (reply.failure.empty() && status == 416) return found;  // an empty file
  if (!reply.failure.empty() || (status != 200 && status != 206)) refuse(line, reply, file);
  found.etag = reply.head.field("etag");
  found.size_bytes = found.begin.size();
  if (status == 206) {
    const auto range = parse_content_range(reply.head.field("content-range"));
    if (!range || range->first != 0 || range->last + 1 != found.begin.size())
      throw Error(ErrorKind::kIo, {.file = file}, "the server sent another range than was asked for");
    found.size_bytes = range->total;
  } else if (found.begin.size() > head_bytes) {
    throw Error(ErrorKind::kUnsupported, {.file = file}, "the server does not answer range requests",
                {.hint = "download the model and name its folder"});
  }
  return found;
}

}  // namespace nibblecast
