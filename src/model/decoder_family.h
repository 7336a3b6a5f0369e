// model/decoder_family.h - decoders of ordinary blocks as Models: Llama, Mistral, Qwen2, Qwen3, Mixtral,
// GLM-4.5 to 4.7, MiniMax-M2, Hy3, Qwen3-Next and Qwen3.5. What sets them apart is a row of settings
// (model/families/decoder_row.h).
#pragma once

#include "model/family.h"

namespace nibblecast {

extern const Family kDecoderFamily;

}  // namespace nibblecast
