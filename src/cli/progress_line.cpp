#include "cli/progress_line.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/json.h"
#include "cli/text.h"

namespace nibblecast {
namespace {

// A rate over less than this is noise.
constexpr double kLeastRateSeconds = 0.2;
constexpr double kLongSeconds = 600;
constexpr std::string_view kCut = "…";

// The character that text begins with: its bytes and columns.
struct Glyph {
  size_t bytes = 1, columns = 1;
};

Glyph first_glyph(std::string_view text) {
  utf8proc_int32_t code = 0;
  const utf8proc_ssize_t bytes = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                                  static_cast<utf8proc_ssize_t>(text.size()), &code);
  if (bytes <= 0) return {};
  return {static_cast<size_t>(bytes), static_cast<size_t>(utf8proc_charwidth(code))};
}

std::string cut_to(std::string_view text, size_t columns) {
  if (text_columns(text) <= columns) return std::string(text);
  size_t bytes = 0, taken = text_columns(kCut);
  while (bytes < text.size()) {
    const Glyph glyph = first_glyph(text.substr(bytes));
    if (taken + glyph.columns > columns) break;
    bytes += glyph.bytes, taken += glyph.columns;
  }
  return std::string(text.substr(0, bytes)) + std::string(kCut);
}

std::string clock_text(std::time_t now, double seconds_left) {
  const std::time_t end = now + static_cast<std::time_t>(std::min(seconds_left, 1e9));
  std::tm today = {}, then = {};
  ::localtime_r(&now, &today);
  ::localtime_r(&end, &then);
  const bool same_day = today.tm_yday == then.tm_yday && today.tm_year == then.tm_year;
  std::array<char, 64> text = {};
  std::strftime(text.data(), text.size(), same_day ? "ends at %H:%M" : "ends %a %e %b %H:%M", &then);
  return text.data();
}

// What stands after the title, by what says least; empty ones are left out.
enum Part : size_t { kRate, kBytes, kClock, kDetail, kPercent, kLeft, kParts };
using Parts = std::array<std::string, kParts>;

Parts parts_of(const ProgressLine& line, std::time_t now) {
  Parts parts;
  parts[kDetail] = line.detail;
  if (line.seconds_left) {
    const double left = std::max(0.0, *line.seconds_left), all = std::max(line.seconds + left, 1e-9);
    parts[kPercent] = fmt::format("{:.0f} %", 100 * line.seconds / all);
    parts[kLeft] = duration_text(left) + " left";
    if (left >= kLongSeconds) parts[kClock] = clock_text(now, left);
  } else if (line.bytes > 0) {
    parts[kPercent] =
        fmt::format("{:.0f} %", 100 * static_cast<double>(line.bytes_done) / static_cast<double>(line.bytes));
  }
  if (line.bytes > 0)
    parts[kBytes] = fmt::format("{} of {}", size_text(line.bytes_done), size_text(line.bytes));
  else if (line.bytes_done > 0)
    parts[kBytes] = size_text(line.bytes_done);
  if (line.seconds >= kLeastRateSeconds && line.bytes_done > 0)
    parts[kRate] = rate_text(static_cast<double>(line.bytes_done) / line.seconds);
  return parts;
}

std::string joined(std::string text, const Parts& parts) {
  if (!parts[kDetail].empty()) text += ", " + parts[kDetail];
  const char* between = ": ";
  for (const Part part : {kPercent, kLeft, kClock, kBytes, kRate}) {
    if (parts[part].empty()) continue;
    text += std::exchange(between, ", ") + parts[part];
  }
  return text;
}

}  // namespace

size_t text_columns(std::string_view text) {
  size_t columns = 0;
  while (!text.empty()) {
    const Glyph glyph = first_glyph(text);
    columns += glyph.columns;
    text.remove_prefix(glyph.bytes);
  }
  return columns;
}

std::string progress_text(const ProgressLine& line, std::time_t now, size_t columns) {
  Parts parts = parts_of(line, now);
  std::string text = joined(line.title, parts);
  if (columns == 0) return text;
  for (size_t part = 0; part < kLeft && text_columns(text) > columns; ++part) {
    parts[part].clear();
    text = joined(line.title, parts);
  }
  const size_t rest = text_columns(joined("", parts));
  if (text_columns(text) <= columns) return text;
  if (rest + text_columns(kCut) < columns) return joined(cut_to(line.title, columns - rest), parts);
  return cut_to(parts[kLeft], columns);
}

std::string progress_json(const ProgressLine& line) {
  const Json progress = {{"title", line.title},
                         {"detail", line.detail},
                         {"seconds", line.seconds},
                         {"seconds_left", line.seconds_left ? Json(*line.seconds_left) : Json()},
                         {"bytes_done", line.bytes_done},
                         {"bytes", line.bytes > 0 ? Json(line.bytes) : Json()}};
  return Json{{"progress", progress}}.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace nibblecast
