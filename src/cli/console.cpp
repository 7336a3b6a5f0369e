#include "cli/console.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/error.h"

namespace nibblecast {

void print_data(std::string_view text) {
  errno = 0;
  const bool written =
      std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  // A closed stdout (EBADF) and a closed pipe mean that nobody wants to know.
  if (written || errno == EPIPE || errno == EBADF) return;
  throw Error(ErrorKind::kIo, {.file = "standard output"},
              std::string("cannot be written: ") + std::strerror(errno));
}

void print_json(const Json& document) {
  // Paths may hold bytes that are not UTF-8; they are shown, not trusted.
  print_data(document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

void print_line(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fputc('\n', stderr);
}

void print_warning(std::string_view text) { print_line("nibblecast: warning: " + std::string(text)); }
void print_error(std::string_view text) { print_line("nibblecast: error: " + std::string(text)); }

std::string finding_text(const Finding& finding) {
  return finding.remedy.empty() ? finding.reason : finding.reason + "; " + finding.remedy;
}

bool report_findings(std::span<const Finding> findings) {
  bool refused = false;
  for (const Finding& finding : findings) {
    if (finding.severity == Severity::kRefusal) {
      refused = true;
      print_error(finding_text(finding));
    } else {
      print_warning(finding_text(finding));
    }
  }
  return refused;
}

}  // namespace nibblecast
