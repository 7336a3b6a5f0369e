#include "plan/linear.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/integers.h"
#include "checkpoint/manifest.h"

namespace nibblecast {
namespace {

// ModelOpt's names of all experts of a layer in one tensor. (ModelOpt 0.47, export/unified_export_hf.py)
constexpr LinearNames kStackNames = {.weight = "",
                                     .block_scale = "_weight_scale",
                                     .scale_2 = "_weight_scale_2",
                                     .input_scale = "_input_scale"};

// Names of the tensors that a linear may consist of, in a release and in a dialect.
struct Names {
  std::string weight, release_scale, weight_scale, input_scale;             // of all but NVFP4
  std::string nvfp4_weight, nvfp4_block_scale, scale_2, nvfp4_input_scale;  // as the dialect has them
  explicit Names(const SourceLinear& linear, const LinearNames& dialect)
      : Names(linear.module, linear.stack == 0 ? dialect : kStackNames, linear.stack == 0 ? ".weight" : "") {}

 private:
  Names(const std::string& module, const LinearNames& dialect, const char* suffix)
      : weight(module + suffix),
        release_scale(module + ".scale"),
        weight_scale(module + ".weight_scale"),
        input_scale(module + ".input_scale"),
        nvfp4_weight(module + std::string(dialect.weight)),
        nvfp4_block_scale(module + std::string(dialect.block_scale)),
        scale_2(module + std::string(dialect.scale_2)),
        nvfp4_input_scale(module + std::string(dialect.input_scale)) {}
};

OutputTensor scalar(Make make, std::string name, const LinearNames& dialect, bool reciprocal) {
  OutputTensor tensor{make, std::move(name), Dtype::kF32, {}};
  if (dialect.scalars_have_axis) tensor.shape = {1};
  tensor.reciprocal = reciprocal;
  return tensor;
}

constexpr uint64_t kChunkBytes = 16 << 20;

// In place of the tensor itself, or behind what was made of it: of a stack all linears stand in its place.
void put(const std::vector<OutputTensor>& tensors, std::vector<OutputTensor>& place) {
  std::erase_if(place, [](const OutputTensor& tensor) { return tensor.make == Make::kKeep; });
  place.insert(place.end(), tensors.begin(), tensors.end());
}

}  // namespace

void replace_linear(const SourceLinear& linear, const LinearMake& make, const LinearNames& dialect,
                    Replacements& replacements) {
  const Names names(linear, dialect);
  const bool is_nvfp4 = make.make == Make::kCastWeight || make.make == Make::kNvfp4Weight;
  const LinearSource& from = linear.source;
  const Shape shape = {from.format.rows, from.format.cols};
  std::vector<OutputTensor> weight, scale, scalars;
  // Of a matrix of `shape`, with so many of its columns in one of the tensor's.
  const auto made_shape = [&](uint64_t columns) {
    const Shape made = {shape[0], shape[1] / columns};
    return linear.stack == 0 ? made : Shape{linear.stack, made[1], made[0] / linear.stack};
  };
  switch (make.make) {
    case Make::kCastWeight:
    case Make::kNvfp4Weight:
      weight = {{make.make, names.nvfp4_weight, Dtype::kU8, made_shape(2)}};
      scale = {{Make::kBlockScale, names.nvfp4_block_scale, Dtype::kF8E4M3, made_shape(16)}};
      scalars = {scalar(Make::kWeightScale, names.scale_2, dialect, dialect.reciprocal_scales)};
      break;
    case Make::kFp8Weight:
      weight = {{make.make, names.weight, Dtype::kF8E4M3, shape}};
      scalars = {scalar(Make::kWeightScale, names.weight_scale, dialect, false)};
      break;
    case Make::kFp8BlockWeight:
      weight = {{make.make, names.weight, Dtype::kF8E4M3, shape}};
      scale = {{Make::kBlockScale,
                names.release_scale,
                make.dtype,
                {ceil_div(shape[0], make.tile_rows), ceil_div(shape[1], make.tile_cols)}}};
      break;
    case Make::kWideWeight:
      weight = {{make.make, names.weight, make.dtype, made_shape(1)}};
      break;
    case Make::kMxfp4Weight:
      weight = {{make.make, names.weight, Dtype::kI8, made_shape(2)}};
      scale = {{Make::kBlockScale, names.release_scale, Dtype::kF8E8M0, {shape[0], shape[1] / 32}}};
      break;
    default:
      return;  // kept: every tensor stands for itself
  }
  if (make.quantize_input) {
    scalars.push_back(scalar(Make::kInputScale, is_nvfp4 ? names.nvfp4_input_scale : names.input_scale,
                             dialect, is_nvfp4 && dialect.reciprocal_scales));
  }
  // A new scale follows its weight where the source has none.
  if (from.scale.is_there())
    replacements.in_place[from.scale.tensor] = std::move(scale);
  else
    weight.insert(weight.end(), scale.begin(), scale.end());
  put(weight, replacements.in_place[from.weight.tensor]);
  put(scalars, replacements.scalars[from.weight.tensor]);
  for (const Slice& part : {from.scale_2, from.shape})
    if (part.is_there()) replacements.in_place[part.tensor].clear();
}

PlannedLinear planned_linear(const SourceLinear& linear, const LinearNames& dialect,
                             const std::unordered_map<std::string, uint32_t>& indices) {
  const Names names(linear, dialect);
  const auto find = [&](const std::string& name) {
    const auto found = indices.find(name);
    return found == indices.end() ? kNone : found->second;
  };
  const auto find_either = [&](const std::string& first, const std::string& second) {
    const uint32_t found = find(first);
    return found == kNone ? find(second) : found;
  };
  PlannedLinear planned{.source = linear.source,
                        .weight = find_either(names.nvfp4_weight, names.weight),
                        .input_scale = find_either(names.nvfp4_input_scale, names.input_scale),
                        .stack = linear.stack};
  planned.weight_scale = find(names.scale_2);
  if (planned.weight_scale == kNone) {
    planned.block_scale = find(names.release_scale);
    if (planned.block_scale == kNone) planned.weight_scale = find(names.weight_scale);
  } else {
    planned.block_scale = find(names.nvfp4_block_scale);
  }
  return planned;
}

Replacements keep_all(const Checkpoint& source) {
  Replacements kept;
  for (const Tensor& tensor : source.tensors())
    kept.in_place.push_back({{Make::kKeep, tensor.name, tensor.dtype, tensor.shape}});
  kept.scalars.resize(source.tensors().size());
  return kept;
}

uint64_t rows_at_once(const Plan& plan, const PlannedGroup& group) {
  const PlannedLinear& first = group.linears[0];
  const LinearSource& source = first.source;
  if (plan.tensors[first.weight].make != Make::kWideWeight || group.linears.size() != 1 || first.stack != 0)
    return 0;
  if (source.format.rows <= 1 || source.weight.size_bytes <= kChunkBytes) return 0;
  const uint64_t step = std::max<uint64_t>(source.format.scale_rows(), 1);
  const uint64_t rows =
      std::max<uint64_t>(kChunkBytes / (source.weight.size_bytes / source.format.rows) / step, 1) * step;
  return rows < source.format.rows ? rows : 0;
}

void add_only_stage(const Checkpoint& source, std::span<const PlannedLinear> linears, Plan& plan) {
  Stage stage;
  std::vector<uint32_t> kept(source.tensors().size(), kNone);
  for (uint32_t index = 0; index < plan.tensors.size(); ++index) {
    const PlannedTensor& tensor = plan.tensors[index];
    if (tensor.make == Make::kKeep) kept[*tensor.source] = index;
  }
  for (const uint32_t index : kept) {
    if (index != kNone) stage.kept.push_back(index);
  }
  for (const PlannedLinear& linear : linears) add_group({.expert = {}, .linears = {linear}}, stage, plan);
  plan.stages.push_back(std::move(stage));
}

OutputRange output_rows(const Tensor& out, uint64_t first_row, uint64_t rows) {
  if (rows == 0) return {out.offset, out.size_bytes};
  const uint64_t row_bytes = out.size_bytes / (*element_count(out.shape) / out.shape.back());
  return {out.offset + first_row * row_bytes, rows * row_bytes};
}

void add_group(PlannedGroup group, Stage& stage, Plan& plan) {
  uint64_t read = 0, made = 0;
  const uint64_t rows = rows_at_once(plan, group);
  for (const PlannedLinear& linear : group.linears) {
    linear.source.for_parts([&](const Slice& part) {
      read += rows == 0 ? part.size_bytes : linear.source.rows_of(part, 0, rows).size_bytes;
    });
    for (const uint32_t index : {linear.weight, linear.block_scale}) {
      if (index != kNone) made += output_rows(plan.tensors[index].out, 0, rows).size_bytes;
    }
  }
  plan.largest_source_bytes = std::max(plan.largest_source_bytes, read);
  plan.largest_made_bytes = std::max(plan.largest_made_bytes, made);
  stage.groups.push_back(std::move(group));
}

void index_output(const Checkpoint& source, Plan& plan) {
  std::map<std::string, std::string> weight_map;
  for (const PlannedTensor& tensor : plan.tensors) {
    weight_map.emplace(tensor.name_in_file(), plan.shards[tensor.out.shard].name);
  }
  plan.index = output_index(source.index_metadata(), weight_map, plan.output_bytes);
}

}  // namespace nibblecast
