#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/exp.h"
#include "ops/matmul.h"
#include "ops/per_isa.h"
#include "ops/round.h"
#include "ops/softmax_panels.h"

namespace nibblecast {
namespace {

// So many panels of keys at most enter the output in one product, so that few kernels have to be made.
constexpr size_t kChunkPanels = 8;

// Neighbouring panels of one kind of keys; `begin` counts the panels of a block's chunks before this one.
template <class T>
struct Chunk {
  const KeyPanels<T>* keys = nullptr;
  size_t first = 0, count = 0, begin = 0;
};

// Everything that a block of queries sees.
template <class T>
struct BlockKeys {
  std::vector<Chunk<T>> chunks;
  size_t panels = 0;
  void add(const KeyPanels<T>* keys, size_t first, size_t end) {
    for (; first < end; first += kChunkPanels) {
      chunks.push_back({keys, first, std::min(kChunkPanels, end - first), panels});
      panels += chunks.back().count;
    }
  }
};

template <class T>
size_t visible_entries(const AttentionKeys<T>& keys, size_t query) {
  return keys.entries == nullptr ? 0 : std::min(keys.entries->count(), (query + 1) / keys.ratio);
}

template <class T>
BlockKeys<T> keys_of_block(const AttentionKeys<T>& keys, size_t first, size_t queries) {
  BlockKeys<T> block;
  block.add(keys.raw, first_visible(keys.window, first) / kPanel, panels_of(first + queries));
  block.add(keys.entries, 0, panels_of(visible_entries(keys, first + queries - 1)));
  return block;
}

// Bit i of masks[panel]: the query sees key i of the block's panel.
template <class T>
void mask_keys(const AttentionKeys<T>& keys, const BlockKeys<T>& block, size_t query, uint64_t* masks) {
  static_assert(kPanel == 64);
  const size_t first = first_visible(keys.window, query), entries = visible_entries(keys, query);
  for (const Chunk<T>& chunk : block.chunks) {
    for (size_t panel = chunk.first; panel < chunk.first + chunk.count; ++panel) {
      uint64_t& mask = masks[chunk.begin + panel - chunk.first];
      if (chunk.keys == keys.raw) {
        mask = bits_of_range(panel * kPanel, first, query + 1);
      } else {
        mask = bits_of_range(panel * kPanel, 0, entries);
        if (mask != 0 && keys.chosen != nullptr) mask &= keys.chosen[query * keys.chosen_words + panel];
      }
    }
  }
}

// p of one row, rounded to T, chunk by chunk: [chunk's panels, kPanel] at p + begin * rows * kPanel, where
// the chunk's rows stand one after the other. Returns the sum of p and of the sink's part.
template <class T>
[[gnu::always_inline]] inline float exp_body(const float* dots, size_t rows, const Chunk<T>* chunks,
                                             size_t chunk_count, float largest, float sink, T* p,
                                             size_t row) {
  float lanes[kPanel] = {};
  for (size_t c = 0; c < chunk_count; ++c) {
    const size_t begin = chunks[c].begin, count = chunks[c].count;
    exp_panels(dots + begin * rows * kPanel, rows, count, largest, lanes,
               p + (begin * rows + row * count) * kPanel);
  }
  float sum = exp_f32(sink - largest);
  for (size_t i = 0; i < kPanel; ++i) sum += lanes[i];
  return sum;
}

template <class T>
struct Scratch {
  std::vector<T> p;                    // see exp_body
  std::vector<float> dots, out, part;  // [panels, rows, kPanel], [rows, width], [rows, kPanel]
  std::vector<uint64_t> masks;         // [panels]
  float factor[kTileRows];
};

template <class T>
void reserve(const BlockKeys<T>& block, size_t width, Scratch<T>& own) {
  own.dots.resize(kTileRows * block.panels * kPanel);
  own.p.resize(kTileRows * block.panels * kPanel);
  own.out.resize(kTileRows * width);
  own.part.resize(kTileRows * kPanel);
  own.masks.resize(block.panels);
}

// own.out [rows, width] = p · values.
template <class T>
void add_values(const BlockKeys<T>& block, size_t rows, size_t width, Scratch<T>& own) {
  std::fill_n(own.out.data(), rows * width, 0.0f);
  for (const Chunk<T>& chunk : block.chunks) {
    const T* p = own.p.data() + chunk.begin * rows * kPanel;
    for (size_t column = 0; column < width; column += kPanel) {
      const size_t stride =
          chunk.keys->multiply_values(chunk.first, chunk.count, column, p, rows, own.part.data());
      per_isa<add_rows>(static_cast<const float*>(own.part.data()), stride, rows,
                        std::min(kPanel, width - column), own.out.data() + column, width);
    }
  }
}

}  // namespace

template <class T>
void attend(const AttentionKeys<T>& keys, size_t first, size_t queries, size_t heads, const float* sinks,
            T* q) {
  thread_local Scratch<T> own;
  const BlockKeys<T> block = keys_of_block(keys, first, queries);
  const size_t width = keys.raw->width();
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  reserve(block, width, own);
  for (size_t begin = 0; begin < queries * heads; begin += kTileRows) {
    const size_t rows = std::min(kTileRows, queries * heads - begin);
    T* tile = q + begin * width;
    for (const Chunk<T>& chunk : block.chunks) {
      for (size_t i = 0; i < chunk.count; ++i) {
        float* dots = own.dots.data() + (chunk.begin + i) * rows * kPanel;
        chunk.keys->multiply_keys(chunk.first + i, tile, rows, dots);
      }
    }
    for (size_t row = 0; row < rows; ++row) {
      const size_t query = first + (begin + row) / heads, head = (begin + row) % heads;
      if (row == 0 || head == 0) mask_keys(keys, block, query, own.masks.data());
      float* dots = own.dots.data() + row * kPanel;
      const uint64_t* masks = own.masks.data();
      const float largest = per_isa<mask_body>(dots, rows, block.panels, masks, scale);
      own.factor[row] =
          1.0f / per_isa<exp_body<T>>(static_cast<const float*>(dots), rows, block.chunks.data(),
                                      block.chunks.size(), largest, sinks[head], own.p.data(), row);
    }
    add_values(block, rows, width, own);
    for (size_t row = 0; row < rows; ++row) {
      float* out = own.out.data() + row * width;
      per_isa<scale_body>(out, width, own.factor[row]);
      if (keys.rope != nullptr) {
        keys.rope->apply_inverse(out + width - keys.rope->dims(), first + (begin + row) / heads);
      }
    }
    round_rows(own.out.data(), width, rows, width, tile, width);
  }
}

template <class T>
void attend_ref(const AttentionKeys<T>& keys, size_t first, size_t queries, size_t heads, const float* sinks,
                T* q) {
  const size_t width = keys.raw->width();
  for (size_t row = 0; row < queries * heads; ++row) {
    const size_t query = first + row / heads;
    T* own = q + row * width;
    double total = std::exp(double{sinks[row % heads]});
    std::vector<double> sums(width);
    const auto see = [&](const KeyPanels<T>& from, size_t key) {
      double dot = 0;
      for (size_t i = 0; i < width; ++i) dot += double{to_float(own[i])} * double{to_float(from.at(key, i))};
      const double weight = std::exp(dot / std::sqrt(static_cast<double>(width)));
      total += weight;
      for (size_t i = 0; i < width; ++i) sums[i] += weight * double{to_float(from.at(key, i))};
    };
    for (size_t key = first_visible(keys.window, query); key <= query; ++key) see(*keys.raw, key);
    for (size_t i = 0; i < visible_entries(keys, query); ++i) {
      const uint64_t* chosen = keys.chosen == nullptr ? nullptr : keys.chosen + query * keys.chosen_words;
      if (chosen == nullptr || (chosen[i / 64] >> (i % 64) & 1) != 0) see(*keys.entries, i);
    }
    std::vector<float> out(width);
    for (size_t i = 0; i < width; ++i) out[i] = static_cast<float>(sums[i] / total);
    if (keys.rope != nullptr) keys.rope->apply_inverse(out.data() + width - keys.rope->dims(), query);
    for (size_t i = 0; i < width; ++i) own[i] = from_float<T>(out[i]);
  }
}

template <class T>
size_t attend_scratch_bytes(size_t width, size_t window, size_t entries) {
  // A block of at most kTileRows queries touches a panel more at each end.
  const size_t panels = panels_of(window + kTileRows) + 1 + panels_of(entries);
  return kTileRows * (panels * kPanel * (sizeof(T) + sizeof(float)) + (width + kPanel) * sizeof(float)) +
         panels * sizeof(uint64_t);
}

size_t attend_deepest(size_t width) { return std::max(width, kChunkPanels * kPanel); }

template void attend(const AttentionKeys<float>&, size_t, size_t, size_t, const float*, float*);
template void attend(const AttentionKeys<bf16>&, size_t, size_t, size_t, const float*, bf16*);
template void attend_ref(const AttentionKeys<float>&, size_t, size_t, size_t, const float*, float*);
template void attend_ref(const AttentionKeys<bf16>&, size_t, size_t, size_t, const float*, bf16*);
template size_t attend_scratch_bytes<float>(size_t, size_t, size_t);
template size_t attend_scratch_bytes<bf16>(size_t, size_t, size_t);

}  // namespace nibblecast
