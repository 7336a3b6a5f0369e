// base/size_text.h - counts and sizes in messages.
#pragma once

#include <cstdint>
#include <string>

namespace nibblecast {

std::string grouped(uint64_t number);   // "864,704,792,696"
std::string size_text(uint64_t bytes);  // "805.3 GiB", "512 bytes"
// "needs 132.4 MiB of memory and may use 100.0 MiB: 33,940,432 bytes short"; `between` is what stands between
// the two sizes. `needed` is more than `there`.
std::string shortage_text(uint64_t needed, const std::string& between, uint64_t there);

}  // namespace nibblecast
