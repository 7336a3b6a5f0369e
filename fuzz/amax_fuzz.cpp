// Any bytes as an amax file: refused with Error, or maxima that are finite and not negative and that,
// written, read back as the same.
#include <cmath>

#include "calibration/amax_file.h"
#include "faults/memory_files.h"
#include "fuzzing.h"

namespace nibblecast {
namespace {

using fuzzing::require;

bool is_amax(float value) { return std::isfinite(value) && value >= 0; }

void check(const LayerAmax& layer) {
  for (const auto& [tap, values] : layer.taps) {
    require(!tap.empty() && !values.empty());
    for (const float value : values) require(is_amax(value));
  }
  for (const int64_t tokens : layer.tokens) require(tokens >= 0);
}

void try_amax(std::string_view content) {
  testing::MemoryFiles files;
  fuzzing::put_file(files, "/d/amax", content);
  const AmaxFile found = read_amax(files, "/d/amax");
  write_amax(files, "/d/again", found);
  const AmaxFile again = read_amax(files, "/d/again");
  require(again.layers.size() == found.layers.size());
  for (size_t i = 0; i < found.layers.size(); ++i) {
    check(found.layers[i]);
    require(i == 0 || found.layers[i - 1].layer < found.layers[i].layer);
    require(found.layers[i] == again.layers[i]);
  }
}

}  // namespace
}  // namespace nibblecast

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace nibblecast;
  fuzzing::refused_or([&] { try_amax(fuzzing::text_of(bytes, size)); });
  return 0;
}
