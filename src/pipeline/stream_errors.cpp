#include "pipeline/stream_errors.h"

#include <algorithm>

namespace nibblecast {
namespace {

size_t value_bytes(const ShownValues& values) { return values.b16 != nullptr ? sizeof(bf16) : sizeof(float); }
const void* address(const ShownValues& values) {
  return values.b16 != nullptr ? static_cast<const void*>(values.b16) : values.f32;
}
ErrorSums* sums_at(const std::shared_ptr<std::byte>& memory) {
  return reinterpret_cast<ErrorSums*>(memory.get());
}

ErrorSums sum_of_tokens(MeetingPlace& place, const std::shared_ptr<std::byte>& memory, size_t tokens) {
  std::vector<ErrorSums> sums(tokens);
  place.read(std::as_writable_bytes(std::span(sums)), memory.get());
  return sum_of(sums);
}

}  // namespace

void StreamErrors::allocate(uint64_t streams_bytes) {
  token_bytes_ = static_cast<size_t>(streams_bytes / tokens_);
  piece_tokens_ = std::clamp<size_t>(place_.stream_bytes() / token_bytes_, 1, tokens_);
  a_ = place_.allocate(piece_tokens_ * token_bytes_);
  b_ = place_.allocate(piece_tokens_ * token_bytes_);
  sums_ = place_.allocate(tokens_ * sizeof(ErrorSums));
}

ErrorSums StreamErrors::between(const ForwardPass& a, const ForwardPass& b) {
  if (!sums_) allocate(a.streams_bytes());
  const bool is_bf16 = dtype_ == ComputeDtype::kBF16;
  const size_t width = token_bytes_ / (is_bf16 ? sizeof(bf16) : sizeof(float));
  ShownValues values;
  if (is_bf16)
    values.b16 = reinterpret_cast<const bf16*>(b_.get());
  else
    values.f32 = reinterpret_cast<const float*>(b_.get());
  for (size_t first = 0; first < tokens_; first += piece_tokens_) {
    const size_t count = std::min(piece_tokens_, tokens_ - first), bytes = count * token_bytes_;
    a.get_streams(uint64_t{first} * token_bytes_, {a_.get(), bytes});
    b.get_streams(uint64_t{first} * token_bytes_, {b_.get(), bytes});
    place_.token_errors(a_.get(), values, count, width, sums_at(sums_) + first);
  }
  return sum_of_tokens(place_, sums_, tokens_);
}

LayerWatch LayerParts::of_source() {
  return {.part = [this](LayerPart part, size_t first, size_t count, size_t width,
                         const ShownValues& values) { keep(part, first, count, width, values); },
          .routing =
              [this](std::span<const int32_t> experts) { experts_.assign(experts.begin(), experts.end()); }};
}

LayerWatch LayerParts::of_candidate(size_t index) {
  Candidate& candidate = candidates_[index];
  return {.part = [this, &candidate](
                      LayerPart part, size_t first, size_t count, size_t width,
                      const ShownValues& values) { meet(candidate, part, first, count, width, values); },
          .routing = [this, &candidate](
                         std::span<const int32_t> experts) { candidate.moved = moved_routing(experts); }};
}

void LayerParts::keep(LayerPart part, size_t first, size_t count, size_t width, const ShownValues& values) {
  SourceHalf& own = source_[static_cast<size_t>(part)];
  const size_t token_bytes = width * value_bytes(values);
  if (own.token_bytes != token_bytes) {
    own.values = place_.allocate(tokens_ * token_bytes);
    own.token_bytes = token_bytes;
  }
  place_.keep(address(values), token_bytes, token_bytes, count, values.queue,
              own.values.get() + first * token_bytes);
  own.shown = true;
}

void LayerParts::meet(Candidate& candidate, LayerPart part, size_t first, size_t count, size_t width,
                      const ShownValues& values) {
  const auto half = static_cast<size_t>(part);
  const SourceHalf& source = source_[half];
  if (!source.shown || source.token_bytes != width * value_bytes(values)) return;
  std::shared_ptr<std::byte>& sums = candidate.sums[half];
  if (!sums) sums = place_.allocate(tokens_ * sizeof(ErrorSums));
  place_.token_errors(source.values.get() + first * source.token_bytes, values, count, width,
                      sums_at(sums) + first);
  candidate.held[half] = true;
}

void LayerParts::begin_layer() {
  for (SourceHalf& own : source_) own.shown = false;
  experts_.clear();
  for (Candidate& candidate : candidates_) {
    candidate.held[0] = candidate.held[1] = false;
    candidate.moved.reset();
  }
}

std::optional<double> LayerParts::error_of(size_t index, LayerPart part) const {
  const auto half = static_cast<size_t>(part);
  const Candidate& candidate = candidates_[index];
  if (!candidate.held[half]) return std::nullopt;
  return sum_of_tokens(place_, candidate.sums[half], tokens_).error();
}

// Sets of experts, token by token: the order of a token's choices means nothing.
std::optional<double> LayerParts::moved_routing(std::span<const int32_t> experts) const {
  if (experts_.empty() || experts.size() != experts_.size()) return std::nullopt;
  const size_t top = experts.size() / tokens_;
  size_t moved = 0;
  for (size_t token = 0; token < tokens_; ++token) {
    const std::span<const int32_t> others = experts.subspan(token * top, top);
    for (size_t slot = 0; slot < top; ++slot)
      moved += std::ranges::find(others, experts_[token * top + slot]) == others.end();
  }
  return static_cast<double>(moved) / static_cast<double>(experts.size());
}

}  // namespace nibblecast
