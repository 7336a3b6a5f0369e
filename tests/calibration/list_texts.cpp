// list_texts CALIB SIZE: the texts that --calib CALIB --calib-size SIZE takes, as one JSON list. For
// tools/check_datasets.py.
#include <cstdio>
#include <iostream>
#include <string>

#include "base/json.h"
#include "byte_tokenizer.h"
#include "calibration/rows.h"
#include "testing.h"

namespace nibblecast {
namespace {

Json list_texts(const std::string& calib, uint64_t size) {
  const testing::TemporaryFolder folder;
  const Tokenizer tokenizer = testing::byte_tokenizer(folder.path());
  const auto sets = find_calibration_sets(system_files(), calib, size, "");
  const CalibrationRows rows =
      read_rows(system_files(), sets, [&] { return &tokenizer; }, -1, 256, {.length = SIZE_MAX});
  Json texts = Json::array();
  for (const auto& ids : rows.ids) texts.push_back(testing::text_of(ids));
  return texts;
}

}  // namespace
}  // namespace nibblecast

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::fputs("usage: list_texts CALIB SIZE\n", stderr);
    return 2;
  }
  std::cout << nibblecast::list_texts(argv[1], std::stoull(argv[2])) << '\n';
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
