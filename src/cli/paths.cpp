#include "cli/paths.h"

#include <filesystem>
#include <system_error>

#include "remote/address.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

bool is_link(const Path& path) {
  std::error_code ignored;  // what cannot be looked at is a link for all we know
  return std::filesystem::symlink_status(path, ignored).type() == std::filesystem::file_type::symlink ||
         (ignored && ignored != std::errc::no_such_file_or_directory);
}

// Whether ".." after it leads back to where it lies.
bool can_go_up(const Path& path) {
  return path.has_filename() && path.filename() != ".." && path.filename() != "." && !is_link(path);
}

}  // namespace

std::string normal_path(const std::string& path) {
  if (path.empty()) return path;
  if (is_address(path)) return path.substr(0, path.find_last_not_of('/') + 1);
  const Path given = path;
  Path normal = given.root_path().empty() ? Path() : Path("/");
  for (const Path& part : given.relative_path()) {
    if (part.empty() || part == ".") continue;
    if (part == ".." && normal == "/") continue;
    if (part == ".." && can_go_up(normal))
      normal = normal.parent_path();
    else
      normal /= part;
  }
  if (normal.empty()) return ".";
  return path.starts_with("./") && *normal.begin() != ".." ? "./" + normal.string() : normal.string();
}

}  // namespace nibblecast
