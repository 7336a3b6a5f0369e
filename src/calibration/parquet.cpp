#include "calibration/parquet.h"

#include <array>
#include <span>
#include <string_view>

namespace nibblecast {

bool is_parquet(FileSystem& files, const std::string& path) {
  if (path.ends_with(".parquet")) return true;
  const auto file = files.open(path, Access::kRead);
  std::array<char, 4> magic = {};
  if (file->size() < magic.size()) return false;
  file->read(0, std::as_writable_bytes(std::span(magic)));
  return std::string_view(magic.data(), magic.size()) == "PAR1";
}

#ifndef NIBBLECAST_PARQUET
std::unique_ptr<RecordStream> open_parquet(FileSystem&, const std::string& path, RecordOptions) {
  throw Error(ErrorKind::kUnsupported, {.file = path}, "this build reads no Parquet files",
              {.hint = "`make parquet` builds one that does (Arrow C++ from PyPI, a download of 55 MB)"});
}
#endif

}  // namespace nibblecast
