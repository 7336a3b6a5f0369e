// tests/calibration/plain_file.h - a file for a test to read, not synced: the suite writes hundreds.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string_view>

namespace nibblecast::testing {

inline void write_plainly(const std::filesystem::path& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  ASSERT_TRUE(file.good()) << path;
}

}  // namespace nibblecast::testing
