// checkpoint/adapter.h - an adapter (LoRA) in a model's folder. transformers puts it over the weights when it
// loads the folder; nothing here applies it, and no output has one.
#pragma once

namespace nibblecast {

inline constexpr const char* kAdapterName = "adapter_config.json";

}  // namespace nibblecast
