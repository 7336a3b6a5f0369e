#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/exp.h"
#include "ops/matmul.h"

namespace nibblecast {
namespace {

constexpr size_t kKeyStep = 64;  // keys are padded to a multiple, so that few kernels have to be made

// The keys that any query of a block sees, in one piece: raw ones, then entries, then zeros.
struct KeyRange {
  size_t first_raw = 0, raw = 0, entries = 0;
  size_t padded() const { return (raw + entries + kKeyStep - 1) / kKeyStep * kKeyStep; }
};

template <class T>
KeyRange key_range(const AttentionKeys<T>& keys, size_t first, size_t queries) {
  KeyRange range;
  range.first_raw = first + 1 > keys.window ? first + 1 - keys.window : 0;
  range.raw = first + queries - range.first_raw;
  if (keys.ratio != 0) range.entries = std::min(keys.entry_count, (first + queries) / keys.ratio);
  return range;
}

// What one query sees of a KeyRange: raw [raw_begin, raw_end) and entries below `entries`, chosen ones if
// given.
struct Visible {
  size_t raw_begin, raw_end, entries;
  const uint64_t* chosen;
  bool entry(size_t i) const { return chosen == nullptr || (chosen[i / 64] >> (i % 64) & 1) != 0; }
};

template <class T>
Visible visible_to(const AttentionKeys<T>& keys, const KeyRange& range, size_t query) {
  const size_t first = query + 1 > keys.window ? query + 1 - keys.window : 0;
  return {first - range.first_raw, query + 1 - range.first_raw,
          keys.ratio == 0 ? 0 : std::min(keys.entry_count, (query + 1) / keys.ratio),
          keys.chosen == nullptr ? nullptr : keys.chosen + query * keys.chosen_words};
}

// l [padded] -> p, rounded to T, zero where the query does not see; returns 1 / (sum of p + sink's part).
template <class T>
float softmax(const KeyRange& range, const Visible& visible, float scale, float sink, float* l, T* p) {
  constexpr float kHidden = -std::numeric_limits<float>::infinity();
  const size_t padded = range.padded();
  std::fill_n(l, visible.raw_begin, kHidden);
  std::fill(l + visible.raw_end, l + range.raw, kHidden);
  float* entries = l + range.raw;
  std::fill(entries + visible.entries, l + padded, kHidden);
  if (visible.chosen != nullptr) {
    for (size_t i = 0; i < visible.entries; ++i) entries[i] = visible.entry(i) ? entries[i] : kHidden;
  }
  float largest = kHidden;
  for (size_t i = 0; i < padded; ++i) largest = l[i] > largest ? l[i] : largest;
  largest *= scale;
  float lanes[16] = {};
  for (size_t i = 0; i < padded; i += 16) {
    for (size_t lane = 0; lane < 16; ++lane) {
      const float weight = exp_f32(l[i + lane] * scale - largest);
      lanes[lane] += weight;
      p[i + lane] = from_float<T>(weight);
    }
  }
  float sum = exp_f32(sink - largest);
  for (const float lane : lanes) sum += lane;
  return 1.0f / sum;
}

template <class T>
struct Scratch {
  std::vector<T> keys, p;
  std::vector<float> l, out, factor;
};

template <class T>
void gather_keys(const AttentionKeys<T>& keys, const KeyRange& range, std::vector<T>& to) {
  const size_t width = keys.head_dim;
  to.resize(range.padded() * width);
  T* end = std::copy_n(keys.raw + range.first_raw * width, range.raw * width, to.data());
  end = std::copy_n(keys.entries, range.entries * width, end);
  std::fill(end, to.data() + to.size(), T{});
}

}  // namespace

template <class T>
void attend(const AttentionKeys<T>& keys, size_t first, size_t queries, size_t heads, const float* sinks,
            T* q) {
  thread_local Scratch<T> own;
  const KeyRange range = key_range(keys, first, queries);
  const size_t padded = range.padded(), width = keys.head_dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  gather_keys(keys, range, own.keys);
  own.l.resize(kTileRows * padded);
  own.p.resize(kTileRows * padded);
  own.out.resize(kTileRows * width);
  own.factor.resize(kTileRows);
  for (size_t begin = 0; begin < queries * heads; begin += kTileRows) {
    const size_t rows = std::min(kTileRows, queries * heads - begin);
    T* tile = q + begin * width;
    matmul_tile({.m = rows, .n = padded, .k = width}, tile, width, own.keys.data(), width, own.l.data());
    for (size_t row = 0; row < rows; ++row) {
      const Visible visible = visible_to(keys, range, first + (begin + row) / heads);
      own.factor[row] = softmax(range, visible, scale, sinks[(begin + row) % heads],
                                own.l.data() + row * padded, own.p.data() + row * padded);
    }
    matmul_tile({.m = rows, .n = width, .k = padded, .layout = WeightLayout::kInputMajor}, own.p.data(),
                padded, own.keys.data(), width, own.out.data());
    for (size_t row = 0; row < rows; ++row) {
      for (size_t i = 0; i < width; ++i) {
        tile[row * width + i] = from_float<T>(own.out[row * width + i] * own.factor[row]);
      }
    }
  }
}

template <class T>
void attend_ref(const AttentionKeys<T>& keys, size_t first, size_t queries, size_t heads, const float* sinks,
                T* q) {
  const KeyRange range = key_range(keys, first, queries);
  const size_t width = keys.head_dim;
  for (size_t row = 0; row < queries * heads; ++row) {
    const Visible visible = visible_to(keys, range, first + row / heads);
    std::vector<const T*> seen;
    for (size_t i = visible.raw_begin; i < visible.raw_end; ++i)
      seen.push_back(keys.raw + (range.first_raw + i) * width);
    for (size_t i = 0; i < visible.entries; ++i) {
      if (visible.entry(i)) seen.push_back(keys.entries + i * width);
    }
    T* own = q + row * width;
    double total = std::exp(double{sinks[row % heads]});
    std::vector<double> out(width);
    for (const T* key : seen) {
      double dot = 0;
      for (size_t i = 0; i < width; ++i) dot += double{to_float(own[i])} * double{to_float(key[i])};
      const double weight = std::exp(dot / std::sqrt(static_cast<double>(width)));
      total += weight;
      for (size_t i = 0; i < width; ++i) out[i] += weight * double{to_float(key[i])};
    }
    for (size_t i = 0; i < width; ++i) own[i] = from_float<T>(static_cast<float>(out[i] / total));
  }
}

template <class T>
size_t attend_scratch_bytes(size_t head_dim, size_t keys) {
  const size_t padded = (keys + kKeyStep - 1) / kKeyStep * kKeyStep;
  return padded * head_dim * sizeof(T) + kTileRows * padded * (sizeof(T) + sizeof(float)) +
         kTileRows * (head_dim + 1) * sizeof(float);
}

template void attend(const AttentionKeys<float>&, size_t, size_t, size_t, const float*, float*);
template void attend(const AttentionKeys<bf16>&, size_t, size_t, size_t, const float*, bf16*);
template void attend_ref(const AttentionKeys<float>&, size_t, size_t, size_t, const float*, float*);
template void attend_ref(const AttentionKeys<bf16>&, size_t, size_t, size_t, const float*, bf16*);
template size_t attend_scratch_bytes<float>(size_t, size_t);
template size_t attend_scratch_bytes<bf16>(size_t, size_t);

}  // namespace nibblecast
