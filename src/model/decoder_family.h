// model/decoder_family.h - families of decoders.
#pragma once

#include "model/family.h"

namespace nibblecast {

extern const Family kDecoderFamily;

}  // namespace nibblecast
