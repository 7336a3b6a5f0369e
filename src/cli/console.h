// cli/console.h - the only code that writes to the standard streams: data to stdout, all else to stderr.
// Thread-safe.
#pragma once

#include <span>
#include <string_view>

#include "base/error.h"
#include "plan/plan.h"

namespace nibblecast {

// Before any file is opened: what of 0, 1 and 2 the caller closed leads to /dev/null, so that no file gets
// its number. Whether 1, standard output, was open.
bool open_standard_streams();

// A reader that has gone away (`nibblecast plan ... | head`) is no error; any other failure to write stdout
// is kIo.
void print_data(std::string_view text);
// One line each, on stderr; failures to write there are ignored. Warnings and errors stand in the reply too
// (cli/reply.h), if there is one.
void print_line(std::string_view text);
void print_warning(std::string_view text);
void print_error(const Error& error);
void print_error(ErrorKind kind, std::string_view text);

// The terminal's last line, rewritten in place; `text` is narrower than the terminal. Whatever else is
// printed stands on a line of its own: data and notes take the status' place, an error leaves it above
// itself.
void print_status(std::string_view text);
// Columns that a line may have on stderr so that it does not wrap; 0: no terminal, or of unknown width.
size_t terminal_columns();

// Warnings and refusals on stderr, one line each. Whether there was a refusal.
bool report_findings(std::span<const Finding> findings);
std::string finding_text(const Finding& finding);  // "reason; remedy"

}  // namespace nibblecast
