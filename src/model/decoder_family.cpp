#include "model/decoder_family.h"

namespace nibblecast {

const Family kDecoderFamily = {.name = "decoder", .model_types = {}, .read = nullptr, .presets = {}, .stored = nullptr};

}  // namespace nibblecast
