#include "model/families/deepseek_v4/cuda_state.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/cuda_devices.h"
#include "base/error.h"
#include "formats/nvfp4_input_cuda.h"

namespace nibblecast {
namespace {

// Lays out one array after the other in host memory, for one copy to the device.
class Upload {
 public:
  template <class V>
  size_t add(const std::vector<V>& values) {
    const size_t begin = round_up(used_, Arena::kAlignment);
    used_ = begin + values.size() * sizeof(V);
    if (host_.size() < used_) host_.resize(used_);
    std::ranges::copy(std::as_bytes(std::span(values)), host_.data() + begin);
    return begin;
  }
  DeviceBuffer send() const {
    DeviceBuffer block(std::max<size_t>(used_, 1));
    CudaStream stream;
    copy_async(stream, block.data(), host_.data(), used_);
    stream.synchronize();
    return block;
  }

 private:
  std::vector<std::byte> host_;
  size_t used_ = 0;
};

// The rows of a group for layers of one ratio.
std::vector<RowOfGroup> rows_of(const CudaGroup& group, uint32_t ratio, CudaGroup::Entries& entries) {
  std::vector<RowOfGroup> rows;
  uint32_t first = 0;
  for (const RowSpan& span : group.spans) {
    const size_t count = ratio == 0 ? 0 : span.length / ratio;
    rows.push_back({static_cast<uint32_t>(span.begin), static_cast<uint32_t>(span.length), first});
    entries.first.push_back(first);
    entries.most = std::max(entries.most, count);
    first += static_cast<uint32_t>(count);
  }
  return rows;
}

// Queries [begin, begin + count) of the group. Blocks begin at multiples of `most` in their row.
std::vector<QueryBlock> query_blocks(const CudaGroup& group, size_t begin, size_t count, size_t most) {
  std::vector<QueryBlock> blocks;
  for (size_t row = 0; row < group.spans.size(); ++row) {
    const RowSpan& span = group.spans[row];
    const size_t first = std::max(begin, span.begin), end = std::min(begin + count, span.begin + span.length);
    for (size_t at = first; at < end; at += most) {
      blocks.push_back({static_cast<uint32_t>(row), static_cast<uint32_t>(at - span.begin),
                        static_cast<uint32_t>(std::min(most, end - at))});
    }
  }
  return blocks;
}

}  // namespace

template <class T>
CudaForwardState<T>::CudaForwardState(const DeepseekV4Config& model, const TokenRows& token_rows,
                                      const ForwardDevice& where)
    : config(model),
      device(where),
      workload{
          .rows = token_rows.rows.size(), .tokens = token_rows.ids.size(), .longest_row = token_rows.longest},
      rows(token_rows.rows),
      ids(token_rows.ids),
      findings_at{model.n_routed_experts} {
  const uint64_t usable = usable_cuda_memory(device.cuda.value());
  const uint64_t limit = device.memory_bytes == 0 ? usable : std::min(usable, device.memory_bytes);
  memory = cuda_memory<T>(config, workload, device.expert_bytes, limit);
  if (memory.peak_bytes() > limit) {
    throw Error(ErrorKind::kRefused, {}, "the forward pass does not fit into the GPU's memory",
                {.expected = fmt::format("{} bytes free", memory.least_bytes),
                 .found = fmt::format("{} bytes", limit),
                 .hint = "calibrate with fewer or shorter rows, or with --device cpu"});
  }
  const auto block = [](auto make) {
    Arena counting;
    make(counting);
    return DeviceBuffer(counting.size_bytes());
  };
  token_block = block([&](Arena& arena) { CudaTokens<T>(arena, config, workload); });
  Arena token_arena(token_block.data());
  tokens = std::make_unique<CudaTokens<T>>(token_arena, config, workload);
  const bool resident = memory.streams_resident;
  work_block = block([&](Arena& arena) { CudaWork<T>(arena, config, workload, resident); });
  Arena work_arena(work_block.data());
  work = std::make_unique<CudaWork<T>>(work_arena, config, workload, resident);
  attention = &work->attention;
  expert = &work->expert;
  const CudaLayerBytes bytes = cuda_layer_bytes(config, sizeof(T));
  stored_block = DeviceBuffer(bytes.stored);
  vector_block = DeviceBuffer(bytes.vectors);
  weight_block = DeviceBuffer(bytes.weights);
  host_vectors = pinned_buffer(bytes.vectors);
  slot_block = DeviceBuffer(memory.slots * memory.slot_bytes);
  if (resident)
    streams_block = DeviceBuffer(memory.streams_bytes);
  else
    host_streams = pinned_buffer(memory.streams_bytes);
  upload_tokens(token_rows);
  lay_out_groups();
}

template <class T>
void CudaForwardState<T>::upload_tokens(const TokenRows& token_rows) {
  const auto upload = [&](const auto& from, auto* to) {
    copy_async(computing, to, from.data(), from.size() * sizeof(from[0]));
  };
  const Rope sliding = make_rope(config.rope, config.qk_rope_head_dim, token_rows.longest);
  const Rope compress = make_rope(config.compress_rope, config.qk_rope_head_dim, token_rows.longest);
  upload(token_rows.ids, tokens->ids);
  upload(token_rows.positions, tokens->positions);
  upload(sliding.turns(), tokens->sliding_turns);
  upload(compress.turns(), tokens->compress_turns);
  fill_async(computing, tokens->findings, 0, findings_at.count() * sizeof(uint32_t));
  const uint32_t pairs = static_cast<uint32_t>(config.qk_rope_head_dim / 2);
  sliding_rope = {tokens->sliding_turns, pairs};
  compress_rope = {tokens->compress_turns, pairs};
  computing.synchronize();
}

template <class T>
void CudaForwardState<T>::lay_out_groups() {
  Upload upload;
  struct Place {
    size_t group, begin;
    std::optional<uint32_t> ratio;  // rows of this ratio; else blocks of `chunk`
    size_t chunk;
  };
  std::vector<Place> places;
  const size_t most = kAttentionBlockQueries;
  for (const RowGroup& rows_of_group : group_rows(rows, kCudaGroupTokens)) {
    CudaGroup group{.rows = rows_of_group};
    for (size_t row = 0; row < rows_of_group.count; ++row) {
      const RowSpan& span = rows[rows_of_group.first + row];
      group.spans.push_back({span.begin - rows_of_group.begin, span.length});
    }
    for (const uint32_t ratio : config.compress_ratios) {
      if (group.entries.contains(ratio)) continue;
      CudaGroup::Entries& entries = group.entries[ratio];
      places.push_back({groups.size(), upload.add(rows_of(group, ratio, entries)), ratio, 0});
    }
    for (size_t begin = 0; begin < rows_of_group.tokens; begin += kCudaGroupTokens) {
      const size_t count = std::min<size_t>(kCudaGroupTokens, rows_of_group.tokens - begin);
      const std::vector<QueryBlock> blocks = query_blocks(group, begin, count, most);
      places.push_back({groups.size(), upload.add(blocks), std::nullopt, group.chunks.size()});
      group.chunks.push_back(
          {.begin = begin, .tokens = count, .blocks = nullptr, .block_count = blocks.size()});
    }
    groups.push_back(std::move(group));
  }
  row_block = upload.send();
  for (const Place& place : places) {
    std::byte* const at = row_block.data() + place.begin;
    CudaGroup& group = groups[place.group];
    if (place.ratio)
      group.entries[*place.ratio].rows = reinterpret_cast<const RowOfGroup*>(at);
    else
      group.chunks[place.chunk].blocks = reinterpret_cast<const QueryBlock*>(at);
  }
}

template <class T>
T* CudaForwardState<T>::load_streams(size_t begin, size_t count, T* buffer) {
  const size_t width = stream_width();
  if (memory.streams_resident) return reinterpret_cast<T*>(streams_block.data()) + begin * width;
  copy_async(computing, buffer, reinterpret_cast<const T*>(host_streams.data()) + begin * width,
             count * width * sizeof(T));
  return buffer;
}

template <class T>
void CudaForwardState<T>::store_streams(size_t begin, size_t count, const T* buffer) {
  if (memory.streams_resident) return;
  const size_t width = stream_width();
  copy_async(computing, reinterpret_cast<T*>(host_streams.data()) + begin * width, buffer,
             count * width * sizeof(T));
}

template <class T>
void CudaForwardState<T>::send(std::byte* to, const std::byte* from, uint64_t size_bytes) {
  copy_async(copying, to, from, size_bytes);
  use.uploaded_bytes += size_bytes;
}

template <class T>
float CudaForwardState<T>::input_scale(const std::string& name) const {
  const auto found = input_scales.find(module(name));
  return found == input_scales.end() ? 0 : found->second;
}

template <class T>
const T* CudaForwardState<T>::input(const T* x, size_t m, size_t k, float scale) {
  if (scale == 0) return x;
  const size_t size_bytes = m * k * sizeof(T);
  if (rounded.size() < size_bytes) {
    rounded = DeviceBuffer();  // first, so that only one of them exists
    rounded = DeviceBuffer(size_bytes);
  }
  T* const to = reinterpret_cast<T*>(rounded.data());
  round_nvfp4_input_cuda(computing, x, m * k, scale, to);
  return to;
}

template <class T>
void CudaForwardState<T>::show(LayerPart part, size_t first, size_t count, const T* y) {
  if (!watch.part) return;
  if (show_in_place) {
    ShownValues values{.queue = &computing};
    if constexpr (std::is_same_v<T, bf16>)
      values.b16 = y;
    else
      values.f32 = y;
    return watch.part(part, first, count, config.hidden_size, values);
  }
  std::vector<T> values(count * config.hidden_size);
  copy_async(computing, values.data(), y, values.size() * sizeof(T));
  computing.synchronize();
  std::vector<float> shown;
  for (const T value : values) shown.push_back(to_float(value));
  watch.part(part, first, count, config.hidden_size, {.f32 = shown.data()});
}

template class CudaForwardState<float>;
template class CudaForwardState<bf16>;

}  // namespace nibblecast
