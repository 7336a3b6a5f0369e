// checkpoint/printable.h - text out of files we did not write, in messages.
#pragma once

#include <string>
#include <string_view>

namespace nibblecast {

// `text` fit for a message: control characters as \x1b, cut at 200 bytes.
std::string printable(std::string_view text);

// kBadInput if `start`, the first bytes of `file`, are those of a Git LFS pointer.
void refuse_git_lfs_pointer(std::string_view start, const std::string& file);

}  // namespace nibblecast
