// model/presets.h - configurations of DeepSeek-V4 that the program knows by name.
#pragma once

#include "base/json.h"

namespace nibblecast {

// A config.json in the release's spelling. v4-pro and v4-flash: as on the Hub (deepseek-ai/DeepSeek-V4-Pro,
// -Flash). v4-tiny: the same architecture with layers of all three kinds, two of them hash-routed, small
// enough for a demonstration in seconds.
Json v4_pro_config();
Json v4_flash_config();
Json v4_tiny_config();

}  // namespace nibblecast
