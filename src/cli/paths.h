// cli/paths.h - paths as people type them.
#pragma once

#include <string>

namespace nibblecast {

// The same place in fewer words: without empty and "." parts and without a slash at the end; "x/.." goes too,
// unless x is a symbolic link, where it is another place. A "./" at the beginning stays: who writes it means
// no built-in name. "" stays "", and an address (remote/address.h) but for slashes at its end.
std::string normal_path(const std::string& path);

}  // namespace nibblecast
