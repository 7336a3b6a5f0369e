// calibration/held_text.h - what is held of a record: no more than rows need, however long it is.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace nibblecast {

// Of the texts of one record; what stands behind it is read and dropped.
inline constexpr size_t kMostHeldBytes = 16 << 20;
// Stands at the end of a text whose rest was dropped: no byte of UTF-8.
inline constexpr char kCutMark = '\xff';

// Appends `bytes` (whole characters) to `to` as far as there is `room`, which shrinks; the first text that
// does not fit ends in kCutMark, and what follows has no room.
inline void hold_text(std::string_view bytes, std::string& to, size_t& room) {
  if (bytes.empty() || to.ends_with(kCutMark)) return;
  if (bytes.size() <= room) {
    room -= bytes.size();
    to += bytes;
    return;
  }
  size_t fits = room;
  while (fits > 0 && (static_cast<unsigned char>(bytes[fits]) & 0xC0) == 0x80) --fits;
  to += bytes.substr(0, fits);
  to += kCutMark;
  room = 0;
}

}  // namespace nibblecast
