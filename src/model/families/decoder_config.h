// model/families/decoder_config.h - config.json of a family of decoders -> how the model computes.
#pragma once

#include "model/config_reader.h"
#include "model/decoder_spec.h"
#include "model/families/decoder_row.h"

namespace nibblecast {

// kBadInput for what is missing, mistyped, absurd or contradicting; kUnsupported for options that a
// DecoderSpec cannot express.
DecoderSpec read_decoder(const ConfigReader& config, const DecoderRow& row);

}  // namespace nibblecast
