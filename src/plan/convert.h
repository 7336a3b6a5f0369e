// plan/convert.h - the Plan of `nibblecast convert --to mxfp4`: NVFP4 experts back to the release's MXFP4.
#pragma once

#include "checkpoint/checkpoint.h"
#include "plan/plan.h"

namespace nibblecast {

// The release's values exactly, or a refusal among the findings: where the source's nibblecast.json records
// weights with requantized blocks, or quantized anew, it names them. Without a record nobody knows, which is
// a warning; so is an output with --negative-zero modelopt, whose -0 are gone.
//
// Every NVFP4 weight as MXFP4 under the release's names, input scales left out; every other tensor stays.
// config.json loses ModelOpt's keys. Where the source's nibblecast.json records the release that it was made
// of, shards, headers, index and config.json are the release's to the byte; a record that does not fit these
// tensors is passed over with a warning. Whether the values fit shows only when they are read. Errors:
// kBadInput: no NVFP4 weight, or as find_packed_linears(); kUnsupported, naming it: NVFP4 that is no routed
// expert, which no release has as MXFP4, or whose columns are no whole blocks of 32.
Plan make_convert_plan(const Checkpoint& source);

}  // namespace nibblecast
