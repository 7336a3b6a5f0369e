// model/presets.h - configurations that the program knows by name.
#pragma once

#include <span>
#include <string_view>

#include "base/json.h"

namespace nibblecast {

// "v4-pro", "v4-flash", "v4-tiny".
std::span<const std::string_view> preset_names();

// A config.json in the release's spelling. v4-pro and v4-flash: as on the Hub (deepseek-ai/DeepSeek-V4-Pro,
// -Flash). v4-tiny: the same architecture with layers of all three kinds, two of them hash-routed, small
// enough for a demonstration in seconds. Another name: Error kUsage.
Json preset_config(std::string_view name);

}  // namespace nibblecast
