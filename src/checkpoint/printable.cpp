#include "checkpoint/printable.h"

#include "base/error.h"

namespace nibblecast {

std::string printable(std::string_view text) {
  constexpr size_t kMost = 200;
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const char c : text.substr(0, kMost)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f) {
      out += c;
    } else {
      out += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return text.size() > kMost ? out + "..." : out;
}

void refuse_git_lfs_pointer(std::string_view start, const std::string& file) {
  if (!start.starts_with("version https://git-lfs.github.com/")) return;
  throw Error(ErrorKind::kBadInput, {.file = file}, "this is a Git LFS pointer, not the file itself",
              {.hint = "run `git lfs pull` in the checkpoint's folder"});
}

}  // namespace nibblecast
