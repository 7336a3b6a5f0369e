#include "plan/layout.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "checkpoint/safetensors.h"

namespace nibblecast {
namespace {

class ShardLayout {
 public:
  ShardLayout(const Checkpoint& source, const Replacements& replacements, Plan& plan)
      : source_(source), replacements_(replacements), plan_(plan) {}

  void lay_out(uint32_t shard, std::vector<uint32_t> sources) {
    std::vector<PlannedTensor> tensors = place(sources);
    const bool aligned = std::all_of(tensors.begin(), tensors.end(), [](const PlannedTensor& tensor) {
      return tensor.out.offset % dtype_bytes(tensor.out.dtype) == 0;
    });
    if (!aligned) {
      std::stable_sort(sources.begin(), sources.end(),
                       [&](uint32_t a, uint32_t b) { return element_bytes(a) > element_bytes(b); });
      tensors = place(sources);
    }
    finish(shard, std::move(tensors));
  }

 private:
  static uint64_t size_of(const OutputTensor& tensor) {
    constexpr uint64_t kMost = uint64_t{1} << 60;  // a sum of offsets cannot overflow either
    const auto count = element_count(tensor.shape);
    const auto bytes = count ? stored_bytes(tensor.dtype, *count) : std::nullopt;
    if (bytes && *bytes <= kMost) return *bytes;
    throw Error(ErrorKind::kUnsupported, {.tensor = tensor.name}, "has more elements than a file can hold");
  }

  // Of the widest tensor that replaces it.
  size_t element_bytes(uint32_t index) const {
    size_t widest = 0;
    for (const OutputTensor& tensor : replacements_.in_place[index]) {
      widest = std::max<size_t>(widest, dtype_bytes(tensor.dtype));
    }
    return widest;
  }

  // Offsets relative to the data's begin.
  std::vector<PlannedTensor> place(const std::vector<uint32_t>& sources) const {
    std::vector<PlannedTensor> tensors;
    uint64_t offset = 0;
    const auto add = [&](const OutputTensor& tensor, uint32_t index) {
      PlannedTensor planned{.out = {.name = tensor.name, .dtype = tensor.dtype, .shape = tensor.shape},
                            .make = tensor.make,
                            .reciprocal = tensor.reciprocal,
                            .source = {},
                            .part = tensor.part};
      if (tensor.make == Make::kKeep) planned.source = tensor.source == kNone ? index : tensor.source;
      planned.out.size_bytes = size_of(tensor);
      planned.out.offset = offset;
      offset += planned.out.size_bytes;
      tensors.push_back(std::move(planned));
    };
    for (const uint32_t index : sources) {
      for (const OutputTensor& tensor : replacements_.scalars[index]) add(tensor, index);
    }
    for (const uint32_t index : sources) {
      for (const OutputTensor& tensor : replacements_.in_place[index]) add(tensor, index);
    }
    return tensors;
  }

  // As the header is to say it.
  static Tensor whole(const PlannedTensor& tensor) {
    if (!tensor.part) return tensor.out;
    Tensor stack = tensor.out;
    stack.name = tensor.part->whole;
    stack.shape = tensor.part->shape;
    stack.size_bytes *= tensor.part->count;
    return stack;
  }

  void finish(uint32_t shard, std::vector<PlannedTensor> tensors) {
    std::vector<Tensor> outs;
    for (const PlannedTensor& tensor : tensors) {
      if (tensor.begins_tensor()) outs.push_back(whole(tensor));
    }
    PlannedShard planned{.name = source_.shards()[shard].name};
    planned.header = write_safetensors_header(outs, source_.shards()[shard].metadata);
    planned.scalars_begin = planned.scalars_end = planned.size_bytes = planned.header.size();
    for (PlannedTensor& tensor : tensors) {
      if (is_scalar(tensor.make)) planned.scalars_end += tensor.out.size_bytes;
      tensor.out.shard = shard;
      tensor.out.offset += planned.header.size();
      planned.size_bytes += tensor.out.size_bytes;
      plan_.output_bytes += tensor.out.size_bytes;
      plan_.tensors.push_back(std::move(tensor));
    }
    plan_.output_file_bytes += planned.size_bytes;
    plan_.shards.push_back(std::move(planned));
  }

  const Checkpoint& source_;
  const Replacements& replacements_;
  Plan& plan_;
};

}  // namespace

void lay_out(const Checkpoint& source, const Replacements& replacements, Plan& plan) {
  std::vector<std::vector<uint32_t>> by_shard(source.shards().size());
  for (uint32_t index = 0; index < source.tensors().size(); ++index) {
    by_shard[source.tensors()[index].shard].push_back(index);
  }
  ShardLayout layout(source, replacements, plan);
  for (uint32_t shard = 0; shard < by_shard.size(); ++shard)
    layout.lay_out(shard, std::move(by_shard[shard]));
  plan.source_bytes = source.data_bytes();
}

std::unordered_map<std::string, uint32_t> indices_by_name(const Plan& plan) {
  std::unordered_map<std::string, uint32_t> indices;
  indices.reserve(plan.tensors.size());
  for (uint32_t index = 0; index < plan.tensors.size(); ++index) {
    const std::string& name = plan.tensors[index].out.name;
    if (indices.emplace(name, index).second) continue;
    throw Error(ErrorKind::kBadInput, {.tensor = name}, "two tensors of the output would have this name");
  }
  return indices;
}

}  // namespace nibblecast
