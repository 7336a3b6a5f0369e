#include "pipeline/damage.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <vector>

#include "base/error.h"
#include "base/parallel.h"

namespace nibblecast {
namespace {

constexpr size_t kSlice = 1 << 20;  // bytes that one thread looks at, whole values
constexpr const char* kValue = "perplexity";
constexpr const char* kSum = "perplexity_nll_sum";
constexpr const char* kTokens = "perplexity_tokens";

template <class Number>
Number number_of(const std::string& key, const std::string& text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc() && end == text.data() + text.size()) return number;
  throw Error(ErrorKind::kBadInput, {}, "the amax file's metadata is damaged",
              {.expected = key + " is a number", .found = "'" + text + "'"});
}

}  // namespace

void NonFiniteCount::add(const Tensor& tensor, uint64_t begin, std::span<const std::byte> bytes) {
  if (begin == 0) current_ = {};
  std::vector<NonFinite> found((bytes.size() + kSlice - 1) / kSlice);
  parallel_for(found.size(), [&](size_t slice) {
    const size_t at = slice * kSlice;
    found[slice] = count_nonfinite(tensor.dtype, bytes.subspan(at, std::min(kSlice, bytes.size() - at)));
  });
  for (size_t slice = 0; slice < found.size(); ++slice) {
    if (found[slice].count > 0) current_.add(found[slice], begin + slice * kSlice);
  }
  if (begin + bytes.size() == tensor.size_bytes) add_known(tensor, current_);
}

void NonFiniteCount::add_known(const Tensor& tensor, const NonFinite& found) {
  if (found.count == 0) return;
  found_[tensor.name] = found;
  if (allowed_) return;
  throw Error(
      ErrorKind::kBadInput,
      {.file = source_.where(tensor).file, .tensor = tensor.name, .offset = tensor.offset + found.first},
      found.count == 1 ? "a value is NaN or infinite"
                       : fmt::format("{} values are NaN or infinite, the first one here", found.count),
      {.hint = "is this file damaged? fetch it again, or copy what it holds with --allow-nonfinite"});
}

NonFinite NonFiniteCount::of(const std::string& tensor) const {
  const auto at = found_.find(tensor);
  return at == found_.end() ? NonFinite{} : at->second;
}

void check_perplexity(const std::optional<Perplexity>& perplexity, std::optional<double> most) {
  if (!most) return;
  if (!perplexity || perplexity->tokens == 0) {
    throw Error(ErrorKind::kRefused, {}, "the perplexity of the calibration rows is not known",
                {.expected = fmt::format("at most {} (--max-perplexity)", *most),
                 .hint = "calibrate on rows of two tokens or more: with --calib, or into a new amax file"});
  }
  if (perplexity->value() <= *most) return;
  throw Error(
      ErrorKind::kVerifyFailed, {}, "the model does not predict its calibration rows",
      {.expected = fmt::format("a perplexity of at most {} (--max-perplexity)", *most),
       .found = fmt::format("{:.4g}", perplexity->value()),
       .hint = "are the weights damaged (nibblecast verify --source SRC)? are these texts its language?"});
}

void add_perplexity(const Perplexity& perplexity, std::map<std::string, std::string>& metadata) {
  metadata[kValue] = fmt::format("{}", perplexity.value());
  metadata[kSum] = fmt::format("{}", perplexity.nll_sum);
  metadata[kTokens] = std::to_string(perplexity.tokens);
}

std::optional<Perplexity> find_perplexity(const std::map<std::string, std::string>& metadata) {
  const auto sum = metadata.find(kSum), tokens = metadata.find(kTokens);
  if (sum == metadata.end() || tokens == metadata.end()) return std::nullopt;
  return Perplexity{.nll_sum = number_of<double>(kSum, sum->second),
                    .tokens = number_of<uint64_t>(kTokens, tokens->second)};
}

}  // namespace nibblecast
