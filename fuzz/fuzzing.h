// fuzz/fuzzing.h - what the fuzz targets share.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string_view>

#include "base/error.h"
#include "base/file.h"

namespace nibblecast::fuzzing {

inline void require(bool holds) {
  if (!holds) std::abort();
}

inline void put_file(FileSystem& files, const std::filesystem::path& path, std::string_view text) {
  files.create_folders(path.parent_path());
  files.open(path, Access::kCreate)->write(0, std::as_bytes(std::span(text)));
}

// Other people's bytes may be refused, in any words, but in no other way than this.
template <class F>
void refused_or(const F& f) {
  try {
    f();
  } catch (const Error&) {
  }
}

inline std::string_view text_of(const uint8_t* bytes, size_t size) {
  return {reinterpret_cast<const char*>(bytes), size};
}

}  // namespace nibblecast::fuzzing
