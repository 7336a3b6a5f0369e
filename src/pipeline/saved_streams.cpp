#include "pipeline/saved_streams.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "pipeline/writer.h"
#include "plan/cost.h"

namespace nibblecast {
namespace {

constexpr uint64_t kBlockBytes = 8 << 20;

}  // namespace

SavedStreams save_streams(FileSystem& files, const std::filesystem::path& folder, uint64_t layer,
                          std::span<const std::byte> streams) {
  SavedStreams saved{.layer = layer,
                     .file = "streams-" + std::to_string(layer),
                     .size_bytes = streams.size(),
                     .checksum = {}};
  const std::filesystem::path partial = folder / (saved.file + ".partial");
  std::vector<std::unique_ptr<File>> file;
  file.push_back(files.open(partial, Access::kCreateDirect));
  file[0]->reserve(streams.size());
  Writer writer(std::move(file), kSaveStreamsBytes);
  Hash hash;
  for (uint64_t begin = 0; begin < streams.size(); begin += kBlockBytes) {
    const auto block = streams.subspan(begin, std::min<uint64_t>(kBlockBytes, streams.size() - begin));
    Writer::Batch batch = writer.take({{0, begin, block.size()}});
    std::memcpy(batch[0].data(), block.data(), block.size());
    hash.add(block);
    writer.submit(std::move(batch));
  }
  writer.wait();
  writer.file(0).sync();
  writer.file(0).close();
  files.rename(partial, folder / saved.file);
  files.sync_folder(folder);
  saved.checksum = hash.hex();
  return saved;
}

bool load_streams(FileSystem& files, const std::filesystem::path& folder, const SavedStreams& saved,
                  std::span<std::byte> streams) {
  const std::filesystem::path path = folder / saved.file;
  const auto status = files.status(path);
  if (!status || status->is_folder || status->size_bytes != saved.size_bytes ||
      saved.size_bytes != streams.size()) {
    return false;
  }
  Hash hash;
  try {
    const auto file = files.open(path, Access::kRead);
    for (uint64_t begin = 0; begin < streams.size(); begin += kBlockBytes) {
      const auto block = streams.subspan(begin, std::min<uint64_t>(kBlockBytes, streams.size() - begin));
      file->read(begin, block);
      hash.add(block);
    }
  } catch (const Error&) {  // a bad sector costs the state, not the job
    return false;
  }
  return hash.hex() == saved.checksum;
}

void remove_streams(FileSystem& files, const std::filesystem::path& folder, const std::string& keep) {
  for (const std::string& name : files.list(folder)) {
    if (name.starts_with("streams-") && name != keep) files.remove(folder / name);
  }
}

}  // namespace nibblecast
