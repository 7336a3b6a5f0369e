#include "cli/reply.h"

#include <mutex>
#include <optional>
#include <utility>

#include "cli/console.h"

namespace nibblecast {
namespace {

struct Reply {
  std::string command;
  Json document = Json::object(), errors = Json::array(), warnings = Json::array();
};

std::mutex reply_mutex;
std::optional<Reply> reply;  // while an object is asked for and not yet printed

std::string_view kind_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
      return "usage";
    case ErrorKind::kBadInput:
      return "bad input";
    case ErrorKind::kUnsupported:
      return "unsupported";
    case ErrorKind::kRefused:
      return "refused";
    case ErrorKind::kVerifyFailed:
      return "verify failed";
    case ErrorKind::kIo:
      return "io";
    case ErrorKind::kDiskFull:
      return "disk full";
    case ErrorKind::kInterrupted:
      return "interrupted";
    case ErrorKind::kDevice:
      return "device";
    case ErrorKind::kInternal:
      return "internal";
  }
  return "internal";
}

void add_text(Json& object, const char* key, std::string_view text) {
  if (!text.empty()) object[key] = text;
}

template <class F>
void change(const F& f) {
  const std::lock_guard lock(reply_mutex);
  if (reply) f(*reply);
}

}  // namespace

void begin_reply(std::string command) {
  const std::lock_guard lock(reply_mutex);
  reply.emplace().command = std::move(command);
}

void set_reply(Json document) {
  change([&](Reply& to) { to.document = std::move(document); });
}

void add_reply_warning(std::string_view message, std::string_view hint) {
  change([&](Reply& to) {
    Json warning = {{"message", message}};
    add_text(warning, "hint", hint);
    to.warnings.push_back(std::move(warning));
  });
}

void add_reply_error(const Error& error) {
  change([&](Reply& to) {
    Json object = {{"kind", kind_name(error.kind())}, {"message", error.problem()}};
    add_text(object, "file", error.where().file);
    add_text(object, "tensor", error.where().tensor);
    if (error.where().offset) object["offset"] = *error.where().offset;
    add_text(object, "expected", error.detail().expected);
    add_text(object, "found", error.detail().found);
    add_text(object, "hint", error.detail().hint);
    to.errors.push_back(std::move(object));
  });
}

void add_reply_error(ErrorKind kind, std::string_view message, std::string_view hint) {
  add_reply_error(Error(kind, {}, std::string(message), {.hint = std::string(hint)}));
}

void finish_reply(int exit_code) {
  const std::lock_guard lock(reply_mutex);
  if (!reply) return;
  Json& document = reply->document;
  document["format"] = "nibblecast." + reply->command + "/2";
  document["command"] = reply->command;
  document["ok"] = exit_code == 0;
  document["exit_code"] = exit_code;
  document["errors"] = std::move(reply->errors);
  document["warnings"] = std::move(reply->warnings);
  // Paths may hold bytes that are not UTF-8; they are shown, not trusted.
  const std::string text = document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  reply.reset();
  print_data(text);
}

}  // namespace nibblecast
