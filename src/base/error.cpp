#include "base/error.h"

#include <utility>

namespace nibblecast {
namespace {

std::string format_message(const Where& where, const std::string& problem, const Detail& detail) {
  std::string text;
  if (!where.file.empty()) text += where.file + ": ";
  if (!where.tensor.empty()) text += "tensor '" + where.tensor + "': ";
  if (where.offset) text += "at byte " + std::to_string(*where.offset) + ": ";
  text += problem;
  if (!detail.expected.empty() || !detail.found.empty()) {
    text += " (";
    if (!detail.expected.empty()) text += "expected " + detail.expected;
    if (!detail.expected.empty() && !detail.found.empty()) text += ", ";
    if (!detail.found.empty()) text += "found " + detail.found;
    text += ")";
  }
  if (!detail.hint.empty()) text += "; " + detail.hint;
  return text;
}

}  // namespace

Error::Error(ErrorKind kind, Where where, std::string problem, Detail detail)
    : kind_(kind),
      where_(std::move(where)),
      problem_(std::move(problem)),
      detail_(std::move(detail)),
      message_(format_message(where_, problem_, detail_)) {}

}  // namespace nibblecast
