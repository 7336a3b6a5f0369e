#include "ops/gqa.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/parallel.h"
#include "ops/matmul.h"
#include "ops/per_isa.h"
#include "ops/round.h"
#include "ops/softmax_panels.h"

namespace nibblecast {
namespace {

// Panels of keys that a tile meets in one step.
constexpr size_t kStepPanels = 8;

// What a thread keeps between calls.
template <class T>
struct Scratch {
  std::vector<T> q, p;  // [rows, key_width], [rows, panels of the step, kPanel]
  std::vector<float> dots, out,
      part;  // [panels of the step, rows, kPanel], [rows, value_width], [rows, kPanel]
  float largest[kTileRows], sum[kTileRows];  // of what each row has seen
};

template <class T>
void reserve(const GqaShape& shape, Scratch<T>& own) {
  own.q.resize(kTileRows * shape.key_width);
  own.p.resize(kTileRows * kStepPanels * kPanel);
  own.dots.resize(kTileRows * kStepPanels * kPanel);
  own.out.resize(kTileRows * shape.value_width);
  own.part.resize(kTileRows * kPanel);
}

// Rows of one product: some queries with their heads of one kv head. Row i of a block is query i / group,
// head i % group.
template <class T>
class GqaTile {
 public:
  GqaTile(const GqaShape& shape, size_t kv_head, size_t first, size_t begin, size_t rows, Scratch<T>& own)
      : shape_(shape), kv_head_(kv_head), first_(first), begin_(begin), rows_(rows), own_(own) {}

  void load(const T* q, const float* sinks) {
    for (size_t row = 0; row < rows_; ++row) {
      const T* from = q + index(row) * shape_.key_width;
      std::copy_n(from, shape_.key_width, own_.q.data() + row * shape_.key_width);
      own_.largest[row] = sinks == nullptr ? -std::numeric_limits<float>::infinity() : sinks[head(row)];
      own_.sum[row] = 1;  // the sink's part; it vanishes where that is -infinity
    }
    std::fill_n(own_.out.data(), rows_ * shape_.value_width, 0.0f);
  }

  // Panels [first_panel(), end_panel()) hold every key that a row sees.
  size_t first_panel() const { return first_key(query(0)) / kPanel; }
  size_t end_panel() const { return panels_of(query(rows_ - 1) + 1); }

  void see(const GqaKeys<T>& keys, size_t panel, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      keys.keys(kv_head_).multiply_keys(panel + i, own_.q.data(), rows_,
                                        own_.dots.data() + i * rows_ * kPanel);
    }
    for (size_t row = 0; row < rows_; ++row) weigh(row, panel, count);
    for (size_t column = 0; column < shape_.value_width; column += kPanel) {
      const size_t stride =
          keys.values(kv_head_).multiply_values(panel, count, column, own_.p.data(), rows_, own_.part.data());
      per_isa<add_rows>(static_cast<const float*>(own_.part.data()), stride, rows_,
                        std::min(kPanel, shape_.value_width - column), own_.out.data() + column,
                        shape_.value_width);
    }
  }

  void store(T* out) {
    for (size_t row = 0; row < rows_; ++row) {
      float* sums = own_.out.data() + row * shape_.value_width;
      per_isa<scale_body>(sums, shape_.value_width, 1.0f / own_.sum[row]);
      round_rows(sums, shape_.value_width, 1, shape_.value_width, out + index(row) * shape_.value_width,
                 shape_.value_width);
    }
  }

 private:
  size_t query(size_t row) const { return first_ + (begin_ + row) / shape_.group(); }
  size_t head(size_t row) const { return kv_head_ * shape_.group() + (begin_ + row) % shape_.group(); }
  size_t index(size_t row) const { return (query(row) - first_) * shape_.heads + head(row); }
  size_t first_key(size_t query) const {
    return shape_.window == 0 ? 0 : first_visible(shape_.window, query);
  }

  // One row's products with `count` panels to p. What was summed before is scaled to the new maximum.
  void weigh(size_t row, size_t panel, size_t count) {
    uint64_t masks[kStepPanels];
    for (size_t i = 0; i < count; ++i) {
      masks[i] = bits_of_range((panel + i) * kPanel, first_key(query(row)), query(row) + 1);
    }
    float* dots = own_.dots.data() + row * kPanel;
    const float before = own_.largest[row];
    const float found =
        per_isa<mask_body>(dots, rows_, count, static_cast<const uint64_t*>(masks), shape_.scale);
    own_.largest[row] = before < found ? found : before;
    const float factor =
        per_isa<sum_body>(static_cast<const float*>(dots), rows_, count, before, own_.largest[row],
                          own_.p.data() + row * count * kPanel, &own_.sum[row]);
    if (factor != 1)
      per_isa<scale_body>(own_.out.data() + row * shape_.value_width, shape_.value_width, factor);
  }

  // Returns the factor of all that came before.
  [[gnu::always_inline]] static float sum_body(const float* dots, size_t rows, size_t panels, float before,
                                               float largest, T* p, float* sum) {
    // Nothing seen yet: every logit is -infinity and weighs 0.
    const float base = largest == -std::numeric_limits<float>::infinity() ? 0.0f : largest;
    float lanes[kPanel] = {};
    exp_panels(dots, rows, panels, base, lanes, p);
    const float factor = exp_f32(before - base);
    float total = *sum * factor;
    for (size_t i = 0; i < kPanel; ++i) total += lanes[i];
    *sum = total;
    return factor;
  }

  const GqaShape& shape_;
  const size_t kv_head_, first_, begin_, rows_;
  Scratch<T>& own_;
};

}  // namespace

template <class T>
GqaKeys<T>::GqaKeys(const GqaShape& shape, const T* keys, const T* values, size_t length)
    : keys_(shape.kv_heads), values_(shape.kv_heads) {
  if (length == 0) return;  // there may be no memory of none
  parallel_for(shape.kv_heads, [&](size_t head) {
    keys_[head] = KeyPanels<T>(keys + head * shape.key_width, length, shape.key_width,
                               shape.kv_heads * shape.key_width, PanelUse::kKeys);
    values_[head] = KeyPanels<T>(values + head * shape.value_width, length, shape.value_width,
                                 shape.kv_heads * shape.value_width, PanelUse::kValues);
  });
}

template <class T>
size_t GqaKeys<T>::bytes(const GqaShape& shape, size_t length) {
  return shape.kv_heads * (KeyPanels<T>::bytes(length, shape.key_width, PanelUse::kKeys) +
                           KeyPanels<T>::bytes(length, shape.value_width, PanelUse::kValues));
}

size_t gqa_block_queries(const GqaShape& shape) { return std::max(size_t{1}, kTileRows / shape.group()); }

template <class T>
void attend_gqa(const GqaShape& shape, const GqaKeys<T>& keys, size_t kv_head, size_t first, size_t count,
                const float* sinks, const T* q, T* out) {
  thread_local Scratch<T> own;
  reserve(shape, own);
  const size_t rows = count * shape.group();
  for (size_t begin = 0; begin < rows; begin += kTileRows) {
    GqaTile<T> tile(shape, kv_head, first, begin, std::min(kTileRows, rows - begin), own);
    tile.load(q, sinks);
    const size_t end = tile.end_panel();
    for (size_t panel = tile.first_panel(); panel < end; panel += kStepPanels) {
      tile.see(keys, panel, std::min(kStepPanels, end - panel));
    }
    tile.store(out);
  }
}

template <class T>
void gqa(const GqaShape& shape, const T* q, const T* keys, const T* values, size_t length, const float* sinks,
         T* out) {
  const GqaKeys<T> panels(shape, keys, values, length);
  const size_t step = gqa_block_queries(shape), blocks = (length + step - 1) / step;
  parallel_for(blocks * shape.kv_heads, [&](size_t task) {
    const size_t first = task / shape.kv_heads * step;
    attend_gqa(shape, panels, task % shape.kv_heads, first, std::min(step, length - first), sinks,
               q + first * shape.heads * shape.key_width, out + first * shape.heads * shape.value_width);
  });
}

template <class T>
size_t gqa_scratch_bytes(const GqaShape& shape) {
  return kTileRows * ((shape.key_width + kStepPanels * kPanel) * sizeof(T) +
                      (kStepPanels * kPanel + shape.value_width + kPanel) * sizeof(float));
}

size_t gqa_deepest(const GqaShape& shape) { return std::max(shape.key_width, kStepPanels * kPanel); }

template class GqaKeys<float>;
template class GqaKeys<bf16>;
template void attend_gqa(const GqaShape&, const GqaKeys<float>&, size_t, size_t, size_t, const float*,
                         const float*, float*);
template void attend_gqa(const GqaShape&, const GqaKeys<bf16>&, size_t, size_t, size_t, const float*,
                         const bf16*, bf16*);
template void gqa(const GqaShape&, const float*, const float*, const float*, size_t, const float*, float*);
template void gqa(const GqaShape&, const bf16*, const bf16*, const bf16*, size_t, const float*, bf16*);
template size_t gqa_scratch_bytes<float>(const GqaShape&);
template size_t gqa_scratch_bytes<bf16>(const GqaShape&);

}  // namespace nibblecast
