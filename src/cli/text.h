// cli/text.h - numbers as people read and write them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/size_text.h"

namespace nibblecast {

// "1 row", "2 rows", "1,024 rows".
std::string count_text(uint64_t count, std::string_view what);
std::string rate_text(double per_second);   // bytes: "1.03 GB/s", "12.0 MB/s"
std::string duration_text(double seconds);  // "0.42 s", "12 s", "14 min 3 s", "3 h 12 min"
// Ranges where numbers follow each other: "1-3, 7"; at most `limit` ranges, then "and 12 more".
std::string list_text(const std::vector<uint64_t>& ascending, size_t limit);

// "900M", "1GiB", "4G", "1.5T", "4096": K, M, G, T (also KiB...) are powers of 1024, KB, MB... of 1000.
// nullopt for anything else, for 0, and for what does not fit.
std::optional<uint64_t> parse_size(std::string_view text);
// Decimal digits only, 1 to 2^63 - 1; nullopt otherwise.
std::optional<uint64_t> parse_positive(std::string_view text);
// The same with 0.
std::optional<uint64_t> parse_number(std::string_view text);

}  // namespace nibblecast
