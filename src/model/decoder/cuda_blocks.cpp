#include "model/decoder/cuda_blocks.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/cuda_devices.h"
#include "base/error.h"
#include "model/decoder/findings.h"
#include "ops/gqa_cuda.h"

namespace nibblecast {
namespace {

// Lays Buffers out in `block`, which allocate(size in bytes) makes.
template <class Buffers, class Block, class Allocate, class... Args>
std::unique_ptr<Buffers> lay_out(Block& block, const Allocate& allocate, const Args&... args) {
  Arena counting;
  Buffers(counting, args...);
  block = allocate(std::max<size_t>(counting.size_bytes(), 1));
  Arena arena(block.data());
  return std::make_unique<Buffers>(arena, args...);
}

DeviceBuffer device_block(size_t size_bytes) { return DeviceBuffer(size_bytes); }

CudaMemory fitting_memory(const CudaMemory& memory, uint64_t limit) {
  if (memory.peak_bytes() <= limit) return memory;
  throw Error(ErrorKind::kRefused, {}, "the forward pass does not fit into the GPU's memory",
              {.expected = fmt::format("{} bytes free", memory.least_bytes),
               .found = fmt::format("{} bytes", limit),
               .hint = "calibrate with fewer or shorter rows, or with --device cpu"});
}

uint64_t memory_limit(const ForwardDevice& device) {
  const uint64_t usable = usable_cuda_memory(device.cuda.value());
  return device.memory_bytes == 0 ? usable : std::min(usable, device.memory_bytes);
}

}  // namespace

CudaRowGroups::CudaRowGroups(const TokenRows& rows, const DecoderSizes& sizes)
    : sizes_(sizes), groups_(group_rows(rows.rows, sizes.chunk_tokens)) {
  std::vector<RowOfGroup> all_rows;
  std::vector<QueryBlock> blocks;
  for (const RowGroup& group : groups_) {
    Place place{.first_row = all_rows.size()};
    for (size_t row = group.first; row < group.first + group.count; ++row) {
      all_rows.push_back({static_cast<uint32_t>(rows.rows[row].begin - group.begin),
                          static_cast<uint32_t>(rows.rows[row].length)});
    }
    for (size_t begin = 0; begin < group.tokens; begin += sizes_.chunk_tokens) {
      place.first_block.push_back(blocks.size());
      add_blocks(rows, group, begin, std::min<size_t>(sizes_.chunk_tokens, group.tokens - begin), blocks);
    }
    place.first_block.push_back(blocks.size());
    places_.push_back(std::move(place));
  }
  rows_ = to_device(std::span<const RowOfGroup>(all_rows));
  blocks_ = to_device(std::span<const QueryBlock>(blocks));
}

// Of queries [begin, begin + count) of the group. Blocks begin at multiples of kGqaBlockQueries in their row.
void CudaRowGroups::add_blocks(const TokenRows& rows, const RowGroup& group, size_t begin, size_t count,
                               std::vector<QueryBlock>& blocks) {
  for (size_t row = 0; row < group.count; ++row) {
    const size_t row_begin = rows.rows[group.first + row].begin - group.begin;
    const size_t first = std::max(begin, row_begin);
    const size_t end = std::min(begin + count, row_begin + rows.rows[group.first + row].length);
    for (size_t at = first; at < end; at += kGqaBlockQueries) {
      blocks.push_back({static_cast<uint32_t>(row), static_cast<uint32_t>(at - row_begin),
                        static_cast<uint32_t>(std::min<size_t>(kGqaBlockQueries, end - at))});
    }
  }
}

CudaRowGroups::Chunk CudaRowGroups::chunk(const RowGroup& group, size_t begin) const {
  const Place& place = places_[static_cast<size_t>(&group - groups_.data())];
  const size_t chunk = begin / sizes_.chunk_tokens, first = place.first_block[chunk];
  return {rows_.data() + place.first_row, blocks_.data() + first, place.first_block[chunk + 1] - first};
}

template <class T>
CudaBlocks<T>::CudaBlocks(const Model& model, const TokenRows& rows, const ForwardDevice& device)
    : rope_specs(distinct_ropes(std::get<DecoderSpec>(model.spec))) {
  const DecoderSpec& spec = std::get<DecoderSpec>(model.spec);
  const DecoderWidths widths(spec);
  const CudaWorkload workload{rows.rows.size(), rows.ids.size(), rows.longest};
  const uint64_t limit = memory_limit(device);
  memory = fitting_memory(decoder_cuda_memory<T>(model, workload, device.expert_bytes, limit), limit);
  const bool resident = memory.streams_resident;
  findings_count = LayerFinding::count(widths.experts);
  tokens = lay_out<CudaTokenBuffers>(token_block_, device_block, spec, workload);
  residual = lay_out<ResidualBuffers<T>>(residual_block_, device_block, widths, workload.tokens, resident);
  work = lay_out<WorkBuffers<T>>(work_block_, device_block, widths, workload, kCudaSizes, resident);
  routing = *lay_out<RoutingBuffers>(routing_block_, pinned_buffer, workload.tokens * widths.top);
  slots = DeviceBuffer(memory.slots * memory.slot_bytes);
  if (!resident) host_streams = pinned_buffer(memory.streams_bytes);
  upload(rows);
}

template <class T>
void CudaBlocks<T>::upload(const TokenRows& rows) {
  CudaStream stream;
  const auto send = [&](const auto& from, auto* to) {
    copy_async(stream, to, from.data(), from.size() * sizeof(from[0]));
    stream.synchronize();
  };
  send(rows.ids, tokens->ids);
  send(rows.positions, tokens->positions);
  for (size_t i = 0; i < rope_specs.size(); ++i) {
    const Rope rope = make_rope(rope_specs[i], rows.longest);
    send(rope.turns(), tokens->turns[i]);
  }
}

template <class T>
RopeView CudaBlocks<T>::rope(const RopeSpec* spec) const {
  if (spec == nullptr) return {};
  const auto at = static_cast<size_t>(std::ranges::find(rope_specs, *spec) - rope_specs.begin());
  return {tokens->turns[at], static_cast<uint32_t>(spec->dims / 2), spec->pairing, spec->place};
}

template <class T>
std::byte* CudaBlocks<T>::streams() const {
  return memory.streams_resident ? reinterpret_cast<std::byte*>(residual->x) : host_streams.data();
}

template class CudaBlocks<float>;
template class CudaBlocks<bf16>;

}  // namespace nibblecast
