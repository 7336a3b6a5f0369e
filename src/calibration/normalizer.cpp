#include "calibration/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cassert>
#include <map>

#include "calibration/utf8.h"

namespace nibblecast {
namespace {

// The longest decomposition of one character (U+FDFA under NFKD) has 18.
constexpr int kMaxDecomposition = 32;

utf8proc_option_t decompose_options(NormalForm form) {
  const bool compatibility = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                        (compatibility ? UTF8PROC_COMPAT : 0));
}

int combining_class(int32_t code) { return utf8proc_get_property(code)->combining_class; }

// Canonical ordering: combining marks by class, stable, between characters of class 0. Not left to
// utf8proc, which bubbles: quadratic for a text of nothing but marks.
void order_marks(std::vector<int32_t>& codes) {
  const auto is_mark = [](int32_t code) { return combining_class(code) != 0; };
  for (auto run = codes.begin(); run != codes.end();) {
    run = std::find_if(run, codes.end(), is_mark);
    const auto end = std::find_if_not(run, codes.end(), is_mark);
    std::stable_sort(run, end, [](int32_t a, int32_t b) { return combining_class(a) < combining_class(b); });
    run = end;
  }
}

std::vector<int32_t> decompose(std::string_view text, NormalForm form) {
  std::vector<int32_t> codes;
  codes.reserve(text.size());
  int32_t parts[kMaxDecomposition];
  int boundary = UTF8PROC_BOUNDCLASS_START;
  for (size_t offset = 0; offset < text.size();) {
    const Character character = character_at(text, offset);
    offset += character.bytes;
    const auto count =
        utf8proc_decompose_char(character.code, parts, kMaxDecomposition, decompose_options(form), &boundary);
    assert(count >= 0 && count <= kMaxDecomposition);
    codes.insert(codes.end(), parts, parts + count);
  }
  order_marks(codes);
  return codes;
}

}  // namespace

std::string normalize(std::string_view text, NormalForm form) {
  // ASCII is the same in all forms.
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; })) {
    return std::string(text);
  }
  std::vector<int32_t> codes = decompose(text, form);
  if (form == NormalForm::kNfc || form == NormalForm::kNfkc) {
    const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    const auto count =
        utf8proc_normalize_utf32(codes.data(), static_cast<utf8proc_ssize_t>(codes.size()), options);
    codes.resize(static_cast<size_t>(count));
  }
  std::string result;
  result.reserve(text.size());
  for (const int32_t code : codes) append_utf8(code, result);
  return result;
}

bool is_inert(int32_t code) { return code < 0x80 || (code >= 0x3400 && code <= 0x9FFF); }

Normalizer::Normalizer(const std::optional<JsonNode>& json) {
  if (json) add(*json);
}

void Normalizer::add(const JsonNode& json) {
  static const std::map<std::string, NormalForm> kForms = {{"NFC", NormalForm::kNfc},
                                                           {"NFD", NormalForm::kNfd},
                                                           {"NFKC", NormalForm::kNfkc},
                                                           {"NFKD", NormalForm::kNfkd}};
  const std::string& type = json.at("type").text();
  if (const auto form = kForms.find(type); form != kForms.end()) {
    steps_.emplace_back(form->second);
  } else if (type == "Sequence") {
    const JsonNode parts = json.at("normalizers");
    for (size_t i = 0; i < parts.size(); ++i) add(parts.at(i));
  } else if (type == "Prepend") {
    steps_.emplace_back(Prepend{json.at("prepend").text()});
  } else if (type == "Replace") {
    steps_.emplace_back(Replace{read_pattern(json.at("pattern")), json.at("content").text()});
  } else {
    json.unsupported("normalizer '" + type + "'");
  }
}

std::string Normalizer::apply_step(const Prepend& step, std::string text) {
  return text.empty() ? text : step.text + text;
}

std::string Normalizer::apply_step(const Replace& step, const std::string& text) {
  if (text.empty()) return text;
  std::string replaced;
  for (const TextSpan& span : step.pattern.split(text))
    replaced += span.is_match ? step.text : text.substr(span.begin, span.end - span.begin);
  return replaced;
}

std::string Normalizer::apply(std::string_view text) const {
  std::string result(text);
  for (const Step& step : steps_)
    result = std::visit([&](const auto& each) { return apply_step(each, std::move(result)); }, step);
  return result;
}

bool Normalizer::is_local() const {
  return std::ranges::all_of(steps_,
                             [](const Step& step) { return std::holds_alternative<NormalForm>(step); });
}

}  // namespace nibblecast
