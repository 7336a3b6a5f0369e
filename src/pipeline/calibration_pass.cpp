#include "pipeline/calibration_pass.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "pipeline/units.h"

namespace nibblecast {
namespace {

std::string embedding_weight(const Plan& plan) {
  const WeightModule* const embedding = plan.model->table.globals.find({.role = Role::kEmbedding});
  return embedding == nullptr ? "" : embedding->name + ".weight";
}

PlainRows plain_rows(const Checkpoint& source, const Plan& plan, const std::string& name) {
  const Tensor* const tensor = source.find(name);
  return {tensor == nullptr ? Dtype::kBF16 : tensor->dtype, plan.options.compute_dtype};
}

}  // namespace

CalibrationPass::CalibrationPass(const Checkpoint& source, const Plan& plan,
                                 std::vector<std::vector<int32_t>> rows, const ForwardDevice& device)
    : source_(source),
      plan_(plan),
      forward_(plan.options.compute_dtype == ComputeDtype::kBF16
                   ? make_forward_pass<bf16>(*plan.model, std::move(rows), device)
                   : make_forward_pass<float>(*plan.model, std::move(rows), device)),
      head_(head_weight(plan)),
      embedding_(embedding_weight(plan)),
      embedding_rows_(plain_rows(source, plan, embedding_)),
      head_rows_(plain_rows(source, plan, head_)) {}

std::vector<Tensor> CalibrationPass::needed(uint64_t layer) const {
  const ModelTable& table = plan_.model->table;
  const bool is_head = layer == plan_.layers();
  const LayerTable& of = is_head ? table.globals : table.layers[layer];
  std::vector<Tensor> tensors;
  const TileSize tiles = tile_size(source_.config(), (source_.folder() / "config.json").string());
  for (const WeightModule& module : of.modules) {
    if (is_head || module.streams()) continue;
    const LinearParts parts = find_linear(source_, module.name, tiles).value();
    parts.for_parts([&](const Tensor& part) { tensors.push_back(part); });
  }
  for (const PlainTensor& plain : of.plain) tensors.push_back(source_.at(plain.name));
  return tensors;
}

void CalibrationPass::expect_layer(uint64_t layer) {
  expected_.clear();
  const std::vector<Tensor> dense = needed(layer);
  for (const Tensor& tensor : dense) expected_.insert(tensor.name);
  forward_->expect_layer(layer, dense);
}

void CalibrationPass::expect_head(LogitsSink sink) {
  expect_layer(plan_.layers());
  sink_ = std::move(sink);
  head_expected_ = true;
}

void CalibrationPass::take(uint32_t shard, uint64_t begin, std::span<const std::byte> bytes,
                           const ForwardPass::Owner& owner) {
  const std::span<const Tensor> tensors = source_.tensors();
  const uint64_t end = begin + bytes.size();
  auto tensor = std::partition_point(tensors.begin(), tensors.end(), [&](const Tensor& t) {
    return std::pair(t.shard, t.end()) <= std::pair(shard, begin);
  });
  for (; tensor != tensors.end() && tensor->shard == shard && tensor->offset < end; ++tensor) {
    const uint64_t from = std::max(begin, tensor->offset), to = std::min(end, tensor->end());
    const std::span<const std::byte> part = bytes.subspan(from - begin, to - from);
    if (head_expected_ && tensor->name == head_) {
      take_head(*tensor, from - tensor->offset, part, owner);
    } else if (tensor->name == embedding_) {
      take_embedding(*tensor, part, owner);
    } else if (expected_.contains(tensor->name) && !part.empty()) {
      forward_->take(tensor->name, from - tensor->offset, part, owner);
    }
  }
}

void CalibrationPass::take_head(const Tensor& tensor, uint64_t begin_in_tensor,
                                std::span<const std::byte> bytes, const ForwardPass::Owner& owner) {
  if (begin_in_tensor == 0) {
    if (head_rows_.is_wide()) forward_->set_wide_head();
    forward_->begin_head(sink_);
  }
  head_rows_.add(bytes, owner, [&](std::span<const std::byte> part, const ForwardPass::Owner& keeper) {
    forward_->head(head_taken_, part, keeper);
    head_taken_ += part.size();
  });
  head_done_ = begin_in_tensor + bytes.size() == tensor.size_bytes;
}

void CalibrationPass::take_embedding(const Tensor& tensor, std::span<const std::byte> bytes,
                                     const ForwardPass::Owner& owner) {
  const uint64_t value_bytes = embedding_rows_.is_wide() ? sizeof(float) : sizeof(bf16);
  const uint64_t row_bytes = *element_count(tensor.shape) / tensor.shape[0] * value_bytes;
  embedding_rows_.add(bytes, owner, [&](std::span<const std::byte> part, const ForwardPass::Owner&) {
    embed(row_bytes, part);
  });
}

void CalibrationPass::embed(uint64_t row_bytes, std::span<const std::byte> bytes) {
  const auto embed = [&](uint64_t rows, std::span<const std::byte> whole) {
    forward_->embed(embedded_rows_, rows, whole);
    embedded_rows_ += rows;
  };
  if (!partial_row_.empty()) {
    const size_t missing = std::min<size_t>(row_bytes - partial_row_.size(), bytes.size());
    partial_row_.insert(partial_row_.end(), bytes.begin(), bytes.begin() + missing);
    bytes = bytes.subspan(missing);
    if (partial_row_.size() < row_bytes) return;
    embed(1, partial_row_);
    partial_row_.clear();
  }
  const uint64_t rows = bytes.size() / row_bytes;
  if (rows > 0) embed(rows, bytes.first(rows * row_bytes));
  const auto rest = bytes.subspan(rows * row_bytes);
  partial_row_.assign(rest.begin(), rest.end());
}

}  // namespace nibblecast
