// cli/reply.h - what --json prints: one object on stdout, however the command ends.
//
//   {"format": "nibblecast.plan/2", "command": "plan", "ok": true, "exit_code": 0,
//    "errors": [], "warnings": [], ...}    and the command's own keys: docs/json.md
//
// An error is {"kind", "message"} and, where they are known, "file", "tensor", "offset", "expected", "found",
// "hint"; a warning is {"message"} and perhaps "hint". What stderr says as a line, the object holds too.
// Safe to call from any thread.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"
#include "base/json.h"

namespace nibblecast {

// From now on the reply is an object. Before it, and without it, what is added here goes nowhere.
void begin_reply(std::string command);
// The command's own keys.
void set_reply(Json document);
void add_reply_warning(std::string_view message, std::string_view hint = {});
void add_reply_error(const Error& error);
void add_reply_error(ErrorKind kind, std::string_view message, std::string_view hint = {});
// Prints it, once. `exit_code` that is not 0 without an error, as of a `verify` that found problems: not ok.
void finish_reply(int exit_code);

}  // namespace nibblecast
