#include "pipeline/saved_streams.h"

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "pipeline/writer.h"
#include "plan/cost.h"

namespace nibblecast {
namespace {

constexpr uint64_t kPieceBytes = 8 << 20;

}  // namespace

SavedStreams save_streams(FileSystem& files, const std::filesystem::path& folder, uint64_t layer,
                          const ForwardPass& pass) {
  SavedStreams saved{.layer = layer,
                     .file = "streams-" + std::to_string(layer),
                     .size_bytes = pass.streams_bytes(),
                     .checksum = {}};
  const std::filesystem::path partial = folder / (saved.file + ".partial");
  std::vector<std::unique_ptr<File>> file;
  file.push_back(files.open(partial, Access::kCreateDirect));
  file[0]->reserve(saved.size_bytes);
  Writer writer(std::move(file), kSaveStreamsBytes);
  Hash hash;
  for (uint64_t begin = 0; begin < saved.size_bytes; begin += kPieceBytes) {
    const uint64_t size = std::min<uint64_t>(kPieceBytes, saved.size_bytes - begin);
    Writer::Batch batch = writer.take({{0, begin, size}});
    pass.get_streams(begin, batch[0]);
    hash.add(batch[0]);
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
                  ForwardPass& pass) {
  const std::filesystem::path path = folder / saved.file;
  const auto status = files.status(path);
  if (!status || status->is_folder || status->size_bytes != saved.size_bytes ||
      saved.size_bytes != pass.streams_bytes()) {
    return false;
  }
  Hash hash;
  try {
    const auto file = files.open(path, Access::kRead);
    std::vector<std::byte> buffer(std::min<uint64_t>(kPieceBytes, saved.size_bytes));
    for (uint64_t begin = 0; begin < saved.size_bytes; begin += kPieceBytes) {
      const auto block = std::span(buffer).first(std::min<uint64_t>(kPieceBytes, saved.size_bytes - begin));
      file->read(begin, block);
      hash.add(block);
      pass.set_streams(begin, block);
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
