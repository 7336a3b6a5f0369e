#include "pipeline/recorded_evaluation.h"

#include <fmt/format.h>

#include <cmath>
#include <string>

#include "base/error.h"
#include "base/hash.h"
#include "base/size_text.h"
#include "checkpoint/run_record.h"
#include "pipeline/published.h"
#include "pipeline/report.h"

namespace nibblecast {
namespace {

constexpr uint64_t kDocumentLimit = 256 << 20;
constexpr std::string_view kCard = "README.md";
constexpr std::string_view kLineBegins = "- Against the source on ", kSizeBegins = "- Size: ";

// Where a line that begins so stands; npos where none does.
size_t find_line(const std::string& text, std::string_view begins) {
  if (text.starts_with(begins)) return 0;
  const size_t at = text.find("\n" + std::string(begins));
  return at == text.npos ? at : at + 1;
}

// The card with `line` before its line of sizes, instead of what an earlier evaluation said.
std::string with_line(std::string card, const std::string& line) {
  if (const size_t old = find_line(card, kLineBegins); old != card.npos)
    card.erase(old, card.find('\n', old) + 1 - old);
  const size_t size = find_line(card, kSizeBegins);
  return card.insert(size == card.npos ? card.size() : size, line + "\n");
}

}  // namespace

std::string card_line(const Json& evaluation) {
  return fmt::format("{}{} tokens, activations {}: {}.", kLineBegins,
                     grouped(evaluation.at("tokens").get<uint64_t>()),
                     evaluation.at("activations") == "nvfp4" ? "rounded as engines do" : "not rounded",
                     loss_text(evaluation));
}

bool record_evaluation(FileSystem& files, const std::filesystem::path& output, const Json& evaluation) {
  const std::filesystem::path record_path = output / kRecordName, card_path = output / kCard;
  Json record = parse_json(read_text(files, record_path, kDocumentLimit), record_path.string());
  Json& checksums = record["files"];
  const Json recorded = at_or_null(checksums, std::string(kCard));
  std::string card = files.status(card_path) ? read_text(files, card_path, kDocumentLimit) : "";
  const bool is_own = recorded.is_string() && recorded == hash_of(card);
  if (is_own) {
    card = with_line(std::move(card), card_line(evaluation));
    checksums[std::string(kCard)] = hash_of(card);
    write_text_durably(files, card_path, card);
  }
  record["evaluation"] = published_evaluation(evaluation);
  write_text_durably(files, record_path, document_text(record));
  return is_own;
}

}  // namespace nibblecast
