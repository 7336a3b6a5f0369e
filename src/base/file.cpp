#include "base/file.h"

#include "base/error.h"

namespace nibblecast {

void File::read(uint64_t offset, std::span<std::byte> to) {
  while (!to.empty()) {
    const size_t done = read_some(offset, to);
    if (done == 0) {
      throw Error(ErrorKind::kIo, {.file = path(), .offset = offset},
                  "file ends " + std::to_string(to.size()) + " bytes early",
                  {.hint = "was it changed or truncated meanwhile?"});
    }
    offset += done;
    to = to.subspan(done);
  }
}

void File::write(uint64_t offset, std::span<const std::byte> from) {
  while (!from.empty()) {
    const size_t done = write_some(offset, from);
    if (done == 0)
      throw Error(ErrorKind::kIo, {.file = path(), .offset = offset}, "the system wrote nothing");
    offset += done;
    from = from.subspan(done);
  }
}

std::string read_text(FileSystem& files, const std::filesystem::path& path, uint64_t limit_bytes) {
  const auto file = files.open(path, Access::kRead);
  const uint64_t size = file->size();
  if (size > limit_bytes) {
    throw Error(
        ErrorKind::kBadInput, {.file = path.string()}, "file is too large to be what its name says",
        {.expected = "at most " + std::to_string(limit_bytes) + " bytes", .found = std::to_string(size)});
  }
  std::string text(size, '\0');
  file->read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

void write_text_durably(FileSystem& files, const std::filesystem::path& path, std::string_view text) {
  const std::filesystem::path partial = path.string() + ".partial";
  const auto file = files.open(partial, Access::kCreate);
  file->write(0, std::as_bytes(std::span(text)));
  file->sync();
  file->close();
  files.rename(partial, path);
  files.sync_folder(path.has_parent_path() ? path.parent_path() : ".");
}

}  // namespace nibblecast
