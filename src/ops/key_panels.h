// ops/key_panels.h - the keys of one sequence, laid out once for all products that attention makes of them.
//
// Keys stand in panels of kPanel (the last one filled up with zeros), each in the form of ops/panel.h: as a
// weight whose outputs are its keys. Where panels are packed, the values p · key need a second form:
//
//   values[channel / kPanel][key / 2][channel % kPanel][key % 2],  channels padded to kPanel with zeros
//
// so that any range of whole panels of keys is a packed weight too: its outputs are kPanel channels.
// Where keys have values of their own, each has the one form that it needs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/bf16.h"
#include "ops/panel.h"

namespace nibblecast {

enum class PanelUse : uint8_t { kKeysAndValues, kKeys, kValues };

template <class T>
class KeyPanels {
 public:
  KeyPanels() = default;
  // Copies keys [count, width], on several threads.
  KeyPanels(const T* keys, size_t count, size_t width)
      : KeyPanels(keys, count, width, width, PanelUse::kKeysAndValues) {}
  // Of rows `stride` apart, for one of the products or for both.
  KeyPanels(const T* keys, size_t count, size_t width, size_t stride, PanelUse use);

  size_t count() const { return count_; }
  size_t width() const { return width_; }
  size_t panels() const { return (count_ + kPanel - 1) / kPanel; }
  T at(size_t key, size_t channel) const;

  // One panel of keys times x [m, width], where x's rows are `width` apart: y [m, kPanel].
  void multiply_keys(size_t panel, const T* x, size_t m, float* y) const;
  // x [m, keys of `count` panels from `first`] times channels [column, column + n): y [m, n_padded]. column
  // is a multiple of kPanel, n = min(kPanel, width - column); returns n_padded.
  size_t multiply_values(size_t first, size_t count, size_t column, const T* x, size_t m, float* y) const;

  // Bytes for `count` keys.
  static size_t bytes(size_t count, size_t width, PanelUse use = PanelUse::kKeysAndValues);

 private:
  size_t panel_elements() const { return packs_panels<T>() ? panel_size(width_) : kPanel * width_; }
  void fill_panel(size_t panel, const T* keys);

  size_t count_ = 0, width_ = 0;
  std::vector<T> keys_, values_;
};

}  // namespace nibblecast
