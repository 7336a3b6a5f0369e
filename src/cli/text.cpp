#include "cli/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <limits>

namespace nibblecast {
namespace {

// Upper case, so that "4g" is as good as "4G".
std::optional<double> unit_bytes(std::string_view unit) {
  std::string upper(unit);
  std::transform(upper.begin(), upper.end(), upper.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::toupper(letter)); });
  if (upper.empty() || upper == "B") return 1.0;
  const size_t power = std::string_view("KMGT").find(upper[0]);
  if (power == std::string_view::npos) return std::nullopt;
  const std::string_view rest = std::string_view(upper).substr(1);
  if (rest != "" && rest != "IB" && rest != "B") return std::nullopt;
  double bytes = 1;
  for (size_t step = 0; step <= power; ++step) bytes *= rest == "B" ? 1000.0 : 1024.0;
  return bytes;
}

}  // namespace

std::string count_text(uint64_t count, std::string_view what) {
  return fmt::format("{} {}{}", grouped(count), what, count == 1 ? "" : "s");
}

std::string rate_text(double per_second) {
  return per_second >= 1e9 ? fmt::format("{:.2f} GB/s", per_second / 1e9)
                           : fmt::format("{:.1f} MB/s", per_second / 1e6);
}

std::string duration_text(double seconds) {
  // Beyond this the number of hours says nothing more, and would not fit an integer.
  seconds = std::clamp(seconds, 0.0, 1e12);
  if (seconds < 10) return fmt::format("{:.2g} s", seconds);
  const uint64_t whole = static_cast<uint64_t>(seconds + 0.5);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::string list_text(const std::vector<uint64_t>& ascending, size_t limit) {
  std::string text;
  size_t ranges = 0;
  for (size_t at = 0; at < ascending.size();) {
    if (ranges == limit) return text + fmt::format(" and {} more", ascending.size() - at);
    size_t last = at;
    while (last + 1 < ascending.size() && ascending[last + 1] == ascending[last] + 1) ++last;
    if (ranges++ > 0) text += ", ";
    text += std::to_string(ascending[at]);
    if (last > at) text += fmt::format("-{}", ascending[last]);
    at = last + 1;
  }
  return text;
}

std::optional<uint64_t> parse_size(std::string_view text) {
  double number = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  const std::optional<double> unit = unit_bytes(text.substr(static_cast<size_t>(end - text.data())));
  if (!unit) return std::nullopt;
  const double bytes = number * *unit;
  if (!(bytes >= 1) || !(bytes < 0x1p63)) return std::nullopt;
  return static_cast<uint64_t>(bytes);
}

std::optional<uint64_t> parse_number(std::string_view text) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
  return number;
}

std::optional<uint64_t> parse_positive(std::string_view text) {
  const std::optional<uint64_t> number = parse_number(text);
  return number == uint64_t{0} ? std::nullopt : number;
}

}  // namespace nibblecast
