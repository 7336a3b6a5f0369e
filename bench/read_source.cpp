// Reads every shard of a checkpoint as a run does and makes nothing of it: what a line gives to the way we
// ask. Prints bytes and seconds. usage: read_source SRC      a folder or an address
#include <chrono>
#include <cstdio>

#include "base/error.h"
#include "cli/source.h"
#include "pipeline/reader.h"

namespace {

using namespace nibblecast;

constexpr uint64_t kUnitBytes = 8 << 20, kMemoryBytes = 64 << 20;

// Of all shards, in pieces as large as what a run passes through.
uint64_t read_all(const Checkpoint& source) {
  std::vector<std::unique_ptr<File>> files;
  std::vector<ReadUnit> units;
  uint64_t bytes = 0;
  for (const Shard& shard : source.shards()) {
    for (uint64_t at = shard.data_offset; at < shard.size_bytes; at += kUnitBytes) {
      units.push_back({{.file = static_cast<uint32_t>(files.size()),
                        .begin = at,
                        .size_bytes = std::min(kUnitBytes, shard.size_bytes - at)}});
      bytes += units.back()[0].size_bytes;
    }
    files.push_back(source.files().open(source.folder() / shard.name, Access::kReadDirect));
  }
  const size_t count = units.size();
  Reader reader(std::move(files), std::move(units), kMemoryBytes);
  for (size_t unit = 0; unit < count; ++unit) reader.next();
  return bytes;
}

}  // namespace

int main(int count, char** words) {
  if (count != 2) {
    std::fprintf(stderr, "usage: read_source SRC\n");
    return 2;
  }
  try {
    const Checkpoint source = open_source(words[1]);
    const auto start = std::chrono::steady_clock::now();
    const uint64_t bytes = read_all(source);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    std::printf("%llu %.3f\n", static_cast<unsigned long long>(bytes), took.count());
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.kind());
  }
  return 0;
}
