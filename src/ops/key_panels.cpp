#include "ops/key_panels.h"

#include <algorithm>

#include "base/integers.h"
#include "base/parallel.h"
#include "ops/matmul.h"

namespace nibblecast {
namespace {

constexpr size_t round_up_to(size_t value, size_t multiple) { return ceil_div(value, multiple) * multiple; }

// One panel's keys [count, width] into all columns of `values`, each `column_stride` elements.
template <class T>
void pack_values(const T* keys, size_t count, size_t width, T* values, size_t column_stride) {
  for (size_t column = 0; column < width; column += kPanel) {
    const size_t channels = std::min(kPanel, width - column);
    T* to = values + column / kPanel * column_stride;
    for (size_t key = 0; key < count; ++key) {
      const T* from = keys + key * width + column;
      for (size_t i = 0; i < channels; ++i) to[(key / 2 * kPanel + i) * 2 + key % 2] = from[i];
    }
  }
}

template <class T>
WeightView view_of(const T* keys, size_t count, size_t width) {
  if constexpr (std::is_same_v<T, bf16>)
    return Bf16View{keys, count, width};
  else
    return F32View{keys, count, width};
}

// Plain rows serve both products.
template <class T>
bool has_key_form(PanelUse use) {
  return use != PanelUse::kValues || !packs_panels<T>();
}
template <class T>
bool has_value_form(PanelUse use) {
  return use != PanelUse::kKeys && packs_panels<T>();
}

}  // namespace

template <class T>
KeyPanels<T>::KeyPanels(const T* keys, size_t count, size_t width, size_t stride, PanelUse use)
    : count_(count), width_(width) {
  if (has_key_form<T>(use)) keys_.resize(panels() * panel_elements());
  if (has_value_form<T>(use)) values_.resize(round_up_to(width, kPanel) * panels() * kPanel);
  parallel_for(panels(), [&](size_t panel) {
    const T* own = keys + panel * kPanel * stride;
    if (stride == width_) return fill_panel(panel, own);
    std::vector<T> rows(std::min(kPanel, count_ - panel * kPanel) * width_);
    for (size_t i = 0; i * width_ < rows.size(); ++i) {
      std::copy_n(own + i * stride, width_, rows.data() + i * width_);
    }
    fill_panel(panel, rows.data());
  });
}

// keys: the panel's, rows contiguous.
template <class T>
void KeyPanels<T>::fill_panel(size_t panel, const T* keys) {
  const size_t own = std::min(kPanel, count_ - panel * kPanel);
  if (!keys_.empty()) read_panel(view_of(keys, own, width_), 0, own, keys_.data() + panel * panel_elements());
  if (values_.empty()) return;
  pack_values(keys, own, width_, values_.data() + panel * kPanel * kPanel, panels() * kPanel * kPanel);
}

template <class T>
T KeyPanels<T>::at(size_t key, size_t channel) const {
  if (keys_.empty()) {
    return values_[(channel / kPanel * panels() * kPanel + key / 2 * 2) * kPanel + channel % kPanel * 2 +
                   key % 2];
  }
  const T* panel = keys_.data() + key / kPanel * panel_elements();
  key %= kPanel;
  return packs_panels<T>() ? panel[(channel / 2 * kPanel + key) * 2 + channel % 2]
                           : panel[key * width_ + channel];
}

template <class T>
void KeyPanels<T>::multiply_keys(size_t panel, const T* x, size_t m, float* y) const {
  const WeightLayout layout = packs_panels<T>() ? WeightLayout::kPacked : WeightLayout::kOutputMajor;
  matmul_tile({.m = m, .n = kPanel, .k = width_, .layout = layout}, x, width_,
              keys_.data() + panel * panel_elements(), width_, y);
}

template <class T>
size_t KeyPanels<T>::multiply_values(size_t first, size_t count, size_t column, const T* x, size_t m,
                                     float* y) const {
  TileShape shape{.m = m, .n = kPanel, .k = count * kPanel, .layout = WeightLayout::kPacked};
  const T* values = nullptr;
  if (packs_panels<T>()) {
    values = values_.data() + (column * panels() + first * kPanel) * kPanel;
  } else {
    shape.n = std::min(kPanel, width_ - column);
    shape.layout = WeightLayout::kInputMajor;
    values = keys_.data() + first * kPanel * width_ + column;
  }
  matmul_tile(shape, x, shape.k, values, width_, y);
  return shape.n;
}

template <class T>
size_t KeyPanels<T>::bytes(size_t count, size_t width, PanelUse use) {
  const size_t padded = round_up_to(count, kPanel);
  return padded * sizeof(T) *
         ((has_key_form<T>(use) ? round_up_to(width, kPackedDepth) : 0) +
          (has_value_form<T>(use) ? round_up_to(width, kPanel) : 0));
}

template class KeyPanels<float>;
template class KeyPanels<bf16>;

}  // namespace nibblecast
