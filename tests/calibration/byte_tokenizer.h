// tests/calibration/byte_tokenizer.h - a tokenizer whose ids are the bytes of the text: rows can be read
// back.
#pragma once

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "calibration/tokenizer.h"

namespace nibblecast::testing {

// Writes tokenizer.json into `folder`.
inline Tokenizer byte_tokenizer(const std::filesystem::path& folder) {
  std::string vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    char entry[32];
    std::snprintf(entry, sizeof entry, "%s\"<0x%02X>\": %d", byte == 0 ? "" : ", ", byte, byte);
    vocabulary += entry;
  }
  std::ofstream(folder / "tokenizer.json")
      << R"({"model": {"byte_fallback": true, "vocab": {)" << vocabulary << R"(}, "merges": []}})";
  return Tokenizer::load(system_files(), folder / "tokenizer.json");
}

inline std::string text_of(const std::vector<int32_t>& ids) { return {ids.begin(), ids.end()}; }

}  // namespace nibblecast::testing
