#include "remote/range_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cstring>

#include "base/error.h"

namespace nibblecast {
namespace {

// A try that brings less counts as one that brought nothing, so that no server keeps a run for ever.
constexpr size_t kProgressBytes = 4096;

bool is_redirect(const HttpReply& reply) {
  const int status = reply.head.status;
  return status >= 300 && status < 400 && !reply.head.field("location").empty();
}

// What a signed link answers when its time is over; the stores differ.
bool may_have_expired(const HttpReply& reply) {
  const int status = reply.head.status;
  return status == 400 || status == 401 || status == 403 || status == 404 || status == 410;
}

}  // namespace

struct RangeSource::Transfer {
  HttpReply reply;
  size_t got = 0;
  std::string wrong;  // what is not as asked; nothing of the body was taken
  bool unranged = false;
};

RangeSource::RangeSource(const Line& line, RemoteEntry entry, std::string url, std::string file)
    : line_(line), entry_(std::move(entry)), url_(std::move(url)), file_(std::move(file)) {}

std::string RangeSource::place() {
  const std::lock_guard lock(mutex_);
  return link_.empty() ? url_ : link_;
}

void RangeSource::keep_link(const std::string& url) {
  const std::lock_guard lock(mutex_);
  link_ = url;
}

// Unless another thread has found a new one meanwhile.
void RangeSource::forget_link(const std::string& url) {
  const std::lock_guard lock(mutex_);
  if (link_ == url) link_.clear();
}

void RangeSource::refuse_changed(const std::string& what, const std::string& expected,
                                 const std::string& found) const {
  throw Error(ErrorKind::kBadInput, {.file = file_},
              "is not the file that was listed: its " + what + " is another",
              {.expected = expected,
               .found = found,
               .hint = "was it changed on the server meanwhile? What was made of it is not to be trusted: "
                       "begin again in another folder"});
}

// Of the Hub's own answer, redirect or not.
void RangeSource::check_version(const HttpHead& head) {
  const std::string commit = head.field("x-repo-commit");
  if (!entry_.commit.empty() && !commit.empty() && commit != entry_.commit)
    refuse_changed("commit", entry_.commit, commit);
  const std::string size = head.field("x-linked-size");
  if (!size.empty() && size != std::to_string(entry_.size_bytes))
    refuse_changed("size", std::to_string(entry_.size_bytes), size);
  std::string named = head.field("x-linked-etag");
  if (named.empty() && !commit.empty() && head.status < 300) named = head.field("etag");
  named = etag_value(named);
  if (entry_.is_checksum && !named.empty() && named != entry_.version)
    refuse_changed("checksum", entry_.version, named);
}

void RangeSource::check_etag(const HttpHead& head) {
  if (entry_.is_checksum) return;
  const std::string etag = head.field("etag");
  if (etag.empty()) return;
  const std::lock_guard lock(mutex_);
  if (etag_.empty()) etag_ = entry_.version.empty() ? etag : entry_.version;
  if (etag != etag_) refuse_changed("ETag", etag_, etag);
}

// Before any of the body is taken.
void RangeSource::check_head(const std::string& url, const HttpHead& head, uint64_t offset, size_t size,
                             Transfer& transfer) {
  if (url == url_) check_version(head);
  check_etag(head);
  const std::string encoding = head.field("content-encoding");
  if (!encoding.empty() && encoding != "identity") {
    transfer.wrong = "the server sends it packed (Content-Encoding: " + encoding + ")";
    return;
  }
  if (head.status == 200) {
    transfer.unranged = offset != 0 || size != entry_.size_bytes;
    const std::string length = head.field("content-length");
    if (!length.empty() && length != std::to_string(entry_.size_bytes))
      refuse_changed("size", std::to_string(entry_.size_bytes), length);
    return;
  }
  const std::string text = head.field("content-range");
  const auto range = parse_content_range(text);
  if (range && range->total != entry_.size_bytes)
    refuse_changed("size", std::to_string(entry_.size_bytes), std::to_string(range->total));
  if (!range || range->first != offset || range->last >= offset + size)
    transfer.wrong =
        fmt::format("the server sent another range than was asked for (bytes {}-{}, Content-Range: {})",
                    offset, offset + size - 1, text.empty() ? "none" : text);
}

RangeSource::Transfer RangeSource::request(const std::string& url, uint64_t offset, std::span<std::byte> to) {
  Transfer transfer;
  bool checked = false;
  HttpRequest request{.url = url, .headers = line_.headers(url)};
  request.headers.push_back(fmt::format("Range: bytes={}-{}", offset, offset + to.size() - 1));
  request.body = [&](const HttpHead& head, std::span<const std::byte> bytes) {
    if (!std::exchange(checked, true)) check_head(url, head, offset, to.size(), transfer);
    if (!transfer.wrong.empty() || transfer.unranged) return false;
    if (bytes.size() > to.size() - transfer.got) {
      transfer.wrong = "the server sent more bytes than were asked for";
      return false;
    }
    std::memcpy(to.data() + transfer.got, bytes.data(), bytes.size());
    transfer.got += bytes.size();
    return true;
  };
  transfer.reply = line_.transport->get(request);
  return transfer;
}

void RangeSource::read(uint64_t offset, std::span<std::byte> to) {
  assert(to.size() <= entry_.size_bytes && offset <= entry_.size_bytes - to.size());
  Tries tries(line_.retry, file_);
  std::string url = place();
  for (int redirects = 0; !to.empty();) {
    const Transfer transfer = request(url, offset, to);
    const HttpReply& reply = transfer.reply;
    offset += transfer.got;
    to = to.subspan(transfer.got);
    if (transfer.got > 0 && url != url_) keep_link(url);
    if (to.empty()) return;
    if (transfer.unranged) {
      throw Error(ErrorKind::kUnsupported, {.file = file_}, "the server does not answer range requests",
                  {.hint = "download the model and name its folder"});
    }
    if (is_redirect(reply) && redirects < kMostRedirects) {
      if (url == url_) check_version(reply.head);
      ++redirects;
      url = redirected(url, reply, file_);
      continue;
    }
    redirects = 0;
    if (transfer.got >= kProgressBytes) tries.succeeded();
    const bool expired = url != url_ && may_have_expired(reply);
    const bool good = reply.head.status == 200 || reply.head.status == 206;
    if (reply.head.status == 416)
      refuse_changed("size", std::to_string(entry_.size_bytes), reply.head.field("content-range"));
    if (!expired && !good && !may_pass(reply)) {
      if (line_.explain && reply.head.status != 0) line_.explain(reply, file_);
      throw Error(ErrorKind::kIo, {.file = file_, .offset = offset},
                  "could not be read: " + outcome_text(reply));
    }
    if (expired || !transfer.wrong.empty()) forget_link(url);
    const std::string why = !transfer.wrong.empty() ? transfer.wrong
                            : expired ? "the link that the server gives is refused: " + outcome_text(reply)
                                      : outcome_text(reply) + (reply.failure.empty() && good ? ", cut" : "");
    if (transfer.got < kProgressBytes) tries.failed(why, asked_pause(reply));
    url = place();
  }
}

}  // namespace nibblecast
