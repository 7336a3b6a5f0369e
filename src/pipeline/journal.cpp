#include "pipeline/journal.h"

#include "base/hash.h"

namespace nibblecast {
namespace {

constexpr size_t kDigestDigits = 32;
constexpr uint64_t kFileLimit = 4ull << 30;

std::string digest_of(std::string_view previous, std::string_view text) {
  Hash hash;
  hash.add(previous);
  hash.add(text);
  return hash.hex();
}

// The entry of a line (without its line feed), if the line holds after `previous`.
bool line_holds(std::string_view line, std::string_view previous) {
  return line.size() > kDigestDigits && line[kDigestDigits] == ' ' &&
         line.substr(0, kDigestDigits) == digest_of(previous, line.substr(kDigestDigits + 1));
}

}  // namespace

JournalEnd read_journal(FileSystem& files, const std::filesystem::path& path,
                        const std::function<void(const Json&)>& entry) {
  JournalEnd found;
  if (!files.status(path)) return found;
  const std::string text = read_text(files, path, kFileLimit);
  found.file_bytes = text.size();
  while (true) {
    const size_t end = text.find('\n', found.whole_bytes);
    if (end == std::string::npos) return found;
    const std::string_view line(text.data() + found.whole_bytes, end - found.whole_bytes);
    if (!line_holds(line, found.last_digest)) return found;
    entry(parse_json(line.substr(kDigestDigits + 1), path.string(), found.whole_bytes + kDigestDigits + 1));
    found.last_digest = line.substr(0, kDigestDigits);
    found.whole_bytes = end + 1;
  }
}

Journal::Journal(FileSystem& files, const std::filesystem::path& path, const JournalEnd& end)
    : end_(end.whole_bytes), last_digest_(end.last_digest) {
  if (files.status(path)) {
    file_ = files.open(path, Access::kUpdateDirect);
    files.sync_folder(path.parent_path());  // its maker may have died before
    if (end.file_bytes != end.whole_bytes) {
      file_->set_size(end.whole_bytes);
      file_->sync();
    }
    return;
  }
  file_ = files.open(path, Access::kCreate);
  file_->sync();
  files.sync_folder(path.parent_path());
}

void Journal::append_all(std::span<const Json> entries) {
  const std::lock_guard lock(mutex_);
  if (error_) std::rethrow_exception(error_);
  std::string lines;
  std::string digest = last_digest_;
  for (const Json& entry : entries) {
    // Error texts may hold bytes of a path that are not UTF-8.
    const std::string text = entry.dump(-1, ' ', true, Json::error_handler_t::replace);
    digest = digest_of(digest, text);
    lines += digest + ' ' + text + '\n';
  }
  try {
    file_->write(end_, std::as_bytes(std::span(lines)));
    file_->sync();
  } catch (...) {
    error_ = std::current_exception();
    throw;
  }
  end_ += lines.size();
  last_digest_ = std::move(digest);
}

}  // namespace nibblecast
