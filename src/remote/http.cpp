#include "remote/http.h"

#include <algorithm>
#include <cctype>
#include <ctime>

#include "base/cut.h"

namespace nibblecast {
namespace {

std::string in_lower_case(std::string_view text) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(),
                         [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return lower;
}

}  // namespace

std::string HttpHead::field(const std::string& name) const {
  const auto found = fields.find(name);
  return found == fields.end() ? std::string() : found->second;
}

std::string origin_of(std::string_view url) {
  const size_t scheme = url.find("://");
  if (scheme == std::string_view::npos) return {};
  return in_lower_case(url.substr(0, std::min(url.find_first_of("/?#", scheme + 3), url.size())));
}

std::string joined_url(std::string_view url, std::string_view location) {
  if (location.find("://") < location.find_first_of("/?#")) return std::string(location);
  const std::string origin(url.substr(0, origin_of(url).size()));
  if (location.starts_with("//")) return origin.substr(0, origin.find(':') + 1) + std::string(location);
  if (location.starts_with('/')) return origin + std::string(location);
  const std::string_view path = url.substr(0, url.find_first_of("?#"));
  return std::string(path.substr(0, std::max(path.rfind('/') + 1, origin.size()))) +
         (path.size() == origin.size() ? "/" : "") + std::string(location);
}

std::string url_quoted(std::string_view text, std::string_view kept) {
  constexpr std::string_view kUnreserved = "-._~";
  constexpr char kDigits[] = "0123456789ABCDEF";
  std::string quoted;
  for (const char letter : text) {
    const auto byte = static_cast<unsigned char>(letter);
    const bool plain = (byte < 128 && std::isalnum(byte)) || kUnreserved.find(letter) != kUnreserved.npos ||
                       kept.find(letter) != kept.npos;
    if (plain)
      quoted += letter;
    else
      quoted += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return quoted;
}

std::optional<ContentRange> parse_content_range(std::string_view text) {
  if (!take(text, "bytes ")) return std::nullopt;
  const auto first = take_number(text);
  if (!first || !take(text, "-")) return std::nullopt;
  const auto last = take_number(text);
  if (!last || !take(text, "/")) return std::nullopt;
  const auto total = take_number(text);
  if (!total || !text.empty() || *first > *last || *last >= *total) return std::nullopt;
  return ContentRange{.first = *first, .last = *last, .total = *total};
}

std::string etag_value(std::string_view text) {
  take(text, "W/");
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') text = text.substr(1, text.size() - 2);
  return std::string(text);
}

std::optional<double> parse_retry_after(const std::string& text, int64_t now) {
  std::string_view rest = text;
  if (const auto seconds = take_number(rest); seconds && rest.empty()) return static_cast<double>(*seconds);
  std::tm parts = {};
  if (::strptime(text.c_str(), "%a, %d %b %Y %H:%M:%S GMT", &parts) == nullptr) return std::nullopt;
  return std::max(0.0, static_cast<double>(::timegm(&parts) - now));
}

std::string next_link(std::string_view text) {
  while (!text.empty()) {
    const size_t begin = text.find('<'), end = text.find('>', begin);
    if (begin == text.npos || end == text.npos) return {};
    const std::string_view after = text.substr(end, std::min(text.find('<', end), text.size()) - end);
    if (after.find("rel=\"next\"") != after.npos) return std::string(text.substr(begin + 1, end - begin - 1));
    text.remove_prefix(end + 1);
  }
  return {};
}

}  // namespace nibblecast
