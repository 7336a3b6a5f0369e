#include "pipeline/verify_kept.h"

#include <fmt/format.h>

#include <cstring>
#include <span>
#include <vector>

#include "base/parallel.h"

namespace nibblecast {
namespace {

// Of F32 values, by themselves and not by the writer's code.
std::vector<std::byte> reciprocals(std::span<const std::byte> values) {
  std::vector<float> floats(values.size() / sizeof(float));
  std::memcpy(floats.data(), values.data(), floats.size() * sizeof(float));
  for (float& value : floats) value = 1 / value;
  const auto bytes = std::as_bytes(std::span(floats));
  return {bytes.begin(), bytes.end()};
}

}  // namespace

uint64_t KeptChecker::source_bytes(uint32_t planned) const {
  return check_.source.tensors()[*check_.plan.tensors[planned].source].size_bytes;
}

void KeptChecker::compare(const Step& step, const Reader::Loaded& loaded) {
  std::vector<Difference> differences(step.pieces.size());
  std::vector<NonFinite> nonfinite(step.pieces.size());
  parallel_for(step.pieces.size(), [&](size_t index) {
    const uint64_t size = step.pieces[index].size_bytes;
    nonfinite[index] = count_nonfinite(check_.plan.tensors[step.pieces[index].planned].out.dtype,
                                       at_place(step, loaded, 2 * index, size));
    const std::span<const std::byte> source = at_place(step, loaded, 2 * index, size);
    std::vector<std::byte> inverted;
    if (check_.plan.tensors[step.pieces[index].planned].reciprocal) inverted = reciprocals(source);
    differences[index] =
        compare_bytes(inverted.empty() ? source : inverted, at_place(step, loaded, 2 * index + 1, size));
  });
  for (size_t index = 0; index < step.pieces.size(); ++index) {
    const KeptPiece& piece = step.pieces[index];
    report_.kept_bytes += piece.size_bytes;
    changed_.add(piece.planned, piece.begin, differences[index]);
    if (nonfinite[index].count > 0) nonfinite_[piece.planned].add(nonfinite[index], piece.begin);
  }
}

void KeptChecker::report() {
  for (const auto& [planned, difference] : changed_.by_tensor()) {
    problems_.add(
        "kept tensors",
        fmt::format("{}: {} of {} bytes differ from {}, the first at byte {} of the tensor",
                    check_.plan.tensors[planned].out.name, difference.bytes, source_bytes(planned),
                    check_.plan.tensors[planned].reciprocal ? "the source's reciprocal" : "the source's",
                    difference.first));
  }
  for (const auto& [planned, found] : nonfinite_) {
    report_.notes.push_back(
        fmt::format("{}: {} values of the source are NaN or infinite, the first at byte {} of the tensor",
                    check_.plan.tensors[planned].out.name, found.count, found.first));
  }
}

}  // namespace nibblecast
