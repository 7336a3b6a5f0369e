#include "pipeline/saved_rows.h"

#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace nibblecast {
namespace {

constexpr const char* kName = "rows";
constexpr uint64_t kLimit = uint64_t{16} << 30;

template <class T>
std::string_view bytes_of(const T& values, size_t count) {
  return {reinterpret_cast<const char*>(&values), count * sizeof(T)};
}

}  // namespace

void save_rows(FileSystem& files, const std::filesystem::path& folder, const CalibrationRows& rows) {
  if (files.status(folder / kName)) return;
  std::string text;
  for (const std::vector<int32_t>& row : rows.ids) {
    const uint64_t length = row.size();
    text += bytes_of(length, 1);
    if (length > 0) text += bytes_of(row[0], length);
  }
  write_text_durably(files, folder / kName, text);
}

std::optional<CalibrationRows> load_rows(FileSystem& files, const std::filesystem::path& folder) {
  if (!files.status(folder / kName)) return std::nullopt;
  const std::string text = read_text(files, folder / kName, kLimit);
  CalibrationRows rows;
  for (size_t at = 0; at < text.size();) {
    uint64_t length = 0;
    const bool whole = text.size() - at >= sizeof length;
    if (whole) std::memcpy(&length, text.data() + at, sizeof length);
    at += sizeof length;
    if (!whole || length > (text.size() - at) / sizeof(int32_t)) {
      throw Error(ErrorKind::kBadInput, {.file = (folder / kName).string()}, "is damaged",
                  {.hint = "give the --calib options again"});
    }
    std::vector<int32_t> row(length);
    if (length > 0) std::memcpy(row.data(), text.data() + at, length * sizeof(int32_t));
    at += length * sizeof(int32_t);
    rows.ids.push_back(std::move(row));
  }
  return rows;
}

}  // namespace nibblecast
