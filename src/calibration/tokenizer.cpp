#include "calibration/tokenizer.h"

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "base/json.h"
#include "calibration/added_tokens.h"
#include "calibration/bpe.h"
#include "calibration/json_node.h"
#include "calibration/normalizer.h"
#include "calibration/post_processor.h"
#include "calibration/pre_tokenizer.h"
#include "calibration/utf8.h"

namespace nibblecast {
namespace {

// The largest known ones have 35 MB.
constexpr uint64_t kMaxFileBytes = 256 << 20;

// Words repeat: their ids are kept while one text is encoded. Longer pieces hardly do.
constexpr size_t kCachedPieceBytes = 64;
using PieceCache = std::unordered_map<std::string, std::vector<int32_t>>;

void append_piece(const Bpe& model, std::string_view piece, PieceCache& cache, std::vector<int32_t>& ids) {
  if (piece.size() > kCachedPieceBytes) return model.encode(piece, ids);
  const auto [entry, is_new] = cache.try_emplace(std::string(piece));
  if (is_new) model.encode(piece, entry->second);
  ids.insert(ids.end(), entry->second.begin(), entry->second.end());
}

}  // namespace

// The parts in the order in which a text passes them.
struct Tokenizer::Impl {
  explicit Impl(const JsonNode& json)
      : model(json.at("model")),
        normalizer(json.find("normalizer")),
        added(json.find("added_tokens"), model, normalizer),
        pre_tokenizer(make_pre_tokenizer(json.find("pre_tokenizer"))),
        post_processor(json.find("post_processor")) {}

  Bpe model;
  Normalizer normalizer;
  AddedTokens added;
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  PostProcessor post_processor;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(FileSystem& files, const std::filesystem::path& tokenizer_json) {
  const std::string file = tokenizer_json.string();
  const Json json = parse_json(read_text(files, tokenizer_json, kMaxFileBytes), file);
  const JsonNode root(json, file);
  if (const auto version = root.find("version"); version && version->text() != "1.0") {
    version->unsupported("version '" + version->text() + "'");
  }
  return Tokenizer(std::make_unique<Impl>(root));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens, size_t max_ids) const {
  if (const auto offset = find_invalid_utf8(text)) {
    throw Error(ErrorKind::kBadInput, {.offset = *offset}, "text is not UTF-8");
  }
  const size_t added = add_special_tokens ? impl_->post_processor.added() : 0;
  const size_t max_text_ids = max_ids - std::min(max_ids, added);
  std::vector<int32_t> ids;
  PieceCache cache;
  for (Segment& segment : impl_->added.split(text)) {
    if (segment.id) {
      ids.push_back(*segment.id);
      continue;
    }
    Pieces pieces{.views = {segment.text}, .strings = {}};
    impl_->pre_tokenizer->apply(pieces);
    for (const std::string_view piece : pieces.views) {
      if (ids.size() >= max_text_ids) break;
      append_piece(impl_->model, piece, cache, ids);
    }
  }
  if (ids.size() > max_text_ids) ids.resize(max_text_ids);
  return impl_->post_processor.apply(ids, add_special_tokens);
}

std::optional<int32_t> Tokenizer::token_id(std::string_view token) const {
  const auto added = impl_->added.id(std::string(token));
  return added ? added : impl_->model.id(token);
}

bool Tokenizer::adds_prefix(int32_t id) const {
  const std::vector<int32_t> ids = encode("");
  return !ids.empty() && ids.front() == id;
}

size_t Tokenizer::vocab_size() const {
  const int32_t highest =
      std::max({impl_->model.highest_id(), impl_->added.highest_id(), impl_->post_processor.highest_id()});
  return static_cast<size_t>(highest) + 1;
}

}  // namespace nibblecast
